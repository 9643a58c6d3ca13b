"""Upgrades the rows of a store of the previous format in place, one module per step.

May import trash and what trash may.
"""
