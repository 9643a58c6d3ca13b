"""Tells operators about requests: logs, audit, metrics, traces.

May import limits.
"""
