"""The command line: one module of ``commands`` per command, and the modules they share.

May import server. Each command imports only the modules it needs, which keeps its start short.
"""
