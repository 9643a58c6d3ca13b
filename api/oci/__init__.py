"""The endpoints of the OCI Distribution API: ``/v2/`` and ``/token``.

May import http and what http may import, but not management.
"""
