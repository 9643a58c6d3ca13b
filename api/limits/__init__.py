"""Limits that hold over all workers of a server: rates, bandwidth, sizes, connections.

Imports nothing else of the API.
"""
