"""Imports and exports images: OCI image layouts, the storage directory of a docker-registry.

Works on an open store through its public calls. May import store, datadir, depot, tasks and model.
"""
