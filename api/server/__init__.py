"""Processes, sockets, settings: the application as a server with several workers.

May import fast and what fast may.
"""
