"""The short cut around aiohttp for small reads and small pushes.

Gives byte for byte the answers of the longer path. May import app, oci and http.
"""
