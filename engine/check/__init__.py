"""Proving the promises of a store: reads only, one module for each kind of promise.

May import upgrade, datadir and what these may.
"""
