"""The HTTP surfaces of a store: the OCI Distribution API and the Scaleway registry API.

``create_app(store)`` gives an aiohttp application that stands alone or hangs inside another
one. The command line lives here too (``holdfast serve``). Rules and bytes are the business of
``holdfast.engine``; here they are spoken about in HTTP.
"""

from .app import create_app
from .context import AppSettings

__all__ = ["AppSettings", "create_app"]
