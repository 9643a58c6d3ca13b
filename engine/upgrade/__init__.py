"""Upgrades of the rows of the last format, in place, one module a step.

May import trash and what trash may.
"""
