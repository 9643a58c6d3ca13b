"""The ordered key-value store of all metadata: its interface, its row formats, its backends.

All rules are written against ``interface``; ``layout`` and ``records`` define the rows. May import
model and tasks.
"""
