"""Generating load: client processes, their jobs, requests and content.

Imports nothing else of the bench.
"""
