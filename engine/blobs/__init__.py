"""Blobs: their rows, the claims on them, and their bytes coming in.

May import the packages above and core.
"""
