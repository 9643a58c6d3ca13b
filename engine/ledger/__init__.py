"""The ordered key-value store of all metadata: its interface, its row formats, its backends.

``interface`` is what every rule is written against; ``layout`` and ``records`` say which rows there
are. May import model and tasks.
"""
