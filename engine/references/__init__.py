"""What needs what: manifests and their content, attached tags, the trash, a namespace's bytes.

Says what a deletion ends (``pruning``) and what it frees (``reclaimable``). May import blobs and
what blobs may.
"""
