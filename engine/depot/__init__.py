"""Files of bytes by file id, which ids exist, and which process owns them.

``interface`` defines what a backend offers; a file's name never contains a digest. May import
model, tasks and ledger.
"""
