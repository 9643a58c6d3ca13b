"""Upload sessions: opened, appended to, published or ended; and room made for them.

May import repositories and what repositories may.
"""
