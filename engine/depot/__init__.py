"""Files of bytes by file id, which ids exist, and which process owns them.

``interface`` is what a backend has to offer; a file never bears a digest. May import model, tasks
and ledger.
"""
