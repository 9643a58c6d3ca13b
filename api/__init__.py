"""The HTTP surfaces of a store: the OCI Distribution API and the Scaleway registry API.

``create_app(store)`` gives an aiohttp application that stands alone or hangs inside another
one. The command line lives here too (``holdfast serve``). Rules and bytes are the business of
``holdfast.engine``; here they are spoken about in HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .app import create_app
    from .http.app_settings import AppSettings

__all__ = ["AppSettings", "create_app"]


def __getattr__(name: str) -> object:
    """The two names when they are first asked for: most commands need no HTTP server."""
    if name == "create_app":
        from .app import create_app

        return create_app
    if name == "AppSettings":
        from .http.app_settings import AppSettings

        return AppSettings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
