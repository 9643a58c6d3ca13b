"""The endpoints of Scaleway's registry API, and what Holdfast adds to it.

One module for each resource; ``operations`` lists all. May import http and what http may; not oci.
"""
