"""Checks that a store keeps its promises. It only reads; each kind of promise has a module.

May import upgrade, datadir and what these may.
"""
