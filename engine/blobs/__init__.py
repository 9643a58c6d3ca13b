"""Blobs: their rows, the claims on them, and the writer that brings their bytes in.

May import core and the packages below it: model, tasks, ledger, depot.
"""
