"""Namespaces: names, listings, keys, limits and quotas, and the ids of all listed objects.

May import references and the packages below it.
"""
