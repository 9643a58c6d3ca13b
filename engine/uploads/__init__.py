"""Upload sessions: open, append, publish, end; and eviction of idle sessions at a quota.

May import repositories and what repositories may.
"""
