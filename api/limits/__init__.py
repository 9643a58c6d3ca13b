"""Limits all workers of a server together: rates, bandwidth, connections.

Imports nothing else of the API.
"""
