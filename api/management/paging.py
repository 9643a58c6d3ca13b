"""Parameters that listings share (Scaleway registry API, section 1)."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

PageNumber = Annotated[
    int,
    Meta(
        ge=1, le=2**31 - 1, description="Number of the page; a page past the end is an empty list"
    ),
]
PageSize = Annotated[
    int,
    # A larger size is refused, not cut: a client that requested more would take the shorter page
    # for the last one.
    Meta(ge=1, le=100, description="Items per page"),
]
Order = Literal["created_at_asc", "created_at_desc", "name_asc", "name_desc"]
"""Sort order; ties are sorted by id, so pages neither skip nor repeat items."""
