"""What was deleted and can come back: restored, given up, purged when it is due.

May import manifests and what manifests may.
"""
