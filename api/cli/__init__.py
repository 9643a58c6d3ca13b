"""The command line: one module of ``commands`` for each command, and what they share.

May import server; a command imports only what it needs, so that each starts quickly.
"""
