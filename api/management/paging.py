"""The two parameters that every listing shares (Scaleway registry API, section 1)."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

PageNumber = Annotated[
    int,
    Meta(ge=1, le=2**31 - 1, description="A page past the end is an empty list"),
]
PageSize = Annotated[
    int,
    # A size over the bound is refused, not cut: clients that asked for more would take the page
    # for the last one.
    Meta(ge=1, le=100, description="Items of a page"),
]
Order = Literal["created_at_asc", "created_at_desc", "name_asc", "name_desc"]
"""Ties are broken by id, so pages neither skip nor repeat."""
