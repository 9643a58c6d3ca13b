"""Images in from and out to other formats: OCI layouts, a docker-registry's directory.

Works on an open store through its public calls. May import store, datadir, depot, tasks and model.
"""
