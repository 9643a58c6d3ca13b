"""Work beside requests and on whole directories: sweep, scrub, retention, snapshot, restore.

May import check and what check may.
"""
