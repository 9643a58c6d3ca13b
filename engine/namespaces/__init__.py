"""Namespaces: names, listings, keys, limits and quotas, and the ids of everything listed.

May import references and what references may.
"""
