"""Limits all workers of a server together: rates, bandwidth, sizes, connections.

Imports nothing else of the API.
"""
