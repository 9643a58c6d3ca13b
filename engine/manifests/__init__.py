"""Storing, reading and deleting manifests.

May import uploads and what uploads may.
"""
