"""The trash: restores deleted namespaces, images and tags, or purges them when they are due.

May import manifests and what manifests may.
"""
