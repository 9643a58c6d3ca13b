"""Images and tags: names that lead to manifests, and reading what they lead to.

May import namespaces and what namespaces may.
"""
