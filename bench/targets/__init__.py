"""What is measured: registries started for it or given by URL, nginx, and the machine's limits.

May import load.
"""
