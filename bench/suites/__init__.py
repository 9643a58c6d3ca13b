"""Workloads: what is measured, one module for each kind.

May import report, targets and load.
"""
