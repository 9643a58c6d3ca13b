"""References: manifests and their content, attached tags, the trash, a namespace's kept bytes.

``pruning`` decides what a deletion removes, ``reclaimable`` computes what it frees. May import
blobs and the packages below it.
"""
