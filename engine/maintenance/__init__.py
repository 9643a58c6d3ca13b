"""What runs beside requests, or on whole directories: sweep, scrub, retention, snapshots.

May import check and what check may.
"""
