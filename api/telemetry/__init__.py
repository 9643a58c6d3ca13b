"""What operators learn of a request: logs, audit, metrics, traces.

May import limits.
"""
