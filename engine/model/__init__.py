"""Values, grammars and errors: names, digests, documents, configuration.

Pure: no input or output, no await. Imports no other package of the engine.
"""
