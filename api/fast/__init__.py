"""The fast path around aiohttp for small reads and small pushes.

Gives the same bytes as the plain path. May import app, oci and http.
"""
