"""The private names of aiohttp that the server builds on: one module uses them, and all exist."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web, web_protocol
from aiohttp.base_protocol import BaseProtocol
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_server import Server

import holdfast.api
from holdfast.api.http import aiohttp_handler
from holdfast.api.http.site import Site

API: Final = Path(holdfast.api.__file__).parent
ADAPTER: Final = Path(aiohttp_handler.__file__)

PRIVATE: Final[dict[str, type]] = {
    "_buffer_paused": BaseProtocol,
    "_pause_reading_for_buffer": BaseProtocol,
    "_resume_reading_for_buffer": BaseProtocol,
    "_loop": BaseProtocol,
    "_parser": BaseProtocol,
    "_upgraded": BaseProtocol,
    "_close": RequestHandler,
    "_force_close": RequestHandler,
    "_keepalive_handle": RequestHandler,
    "_keepalive_timeout": RequestHandler,
    "_logging_enabled": RequestHandler,
    "_make_error_handler": RequestHandler,
    "_manager": RequestHandler,
    "_message_tail": RequestHandler,
    "_messages": RequestHandler,
    "_next_keepalive_close_time": RequestHandler,
    "_process_keepalive": RequestHandler,
    "_request_count": RequestHandler,
    "_waiter": RequestHandler,
    "_connections": Server,
    "_kwargs": Server,
    "_runner": web.BaseSite,
    "_server": web.BaseSite,
    "_read_nowait": StreamReader,
}
"""Private names of aiohttp by the class that defines them."""


def own(cls: type) -> set[str]:
    """The names that a class itself defines, also as slots or attributes of an instance."""
    source = ast.parse(inspect.getsource(cls))
    return set(vars(cls)) | {
        node.attr
        for node in ast.walk(source)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


def private_attributes(path: Path) -> Iterator[ast.Attribute]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and node.attr[1] != "_":
            yield node


@pytest.mark.parametrize("name", PRIVATE)
def test_aiohttp_still_has(name: str) -> None:
    """A new version of aiohttp without the name needs another ``api/http/aiohttp_handler.py``."""
    assert name in own(PRIVATE[name])


def test_the_error_of_a_malformed_request_has_its_fields() -> None:
    error = ValueError("x")
    info = web_protocol._ErrInfo(431, error, "x")
    assert (info.status, info.exc, info.message) == (431, error, "x")


def test_the_adapter_uses_no_other_private_name() -> None:
    owned = set(vars(aiohttp_handler.AiohttpHandler)) | set(vars(aiohttp_handler.AiohttpSite))
    used = {node.attr for node in private_attributes(ADAPTER)} - {"_replace"}
    assert used - (owned - set(PRIVATE)) <= set(PRIVATE), "list it in PRIVATE"
    assert set(PRIVATE) <= used | owned, "it is not used any more"


def test_no_other_module_uses_one() -> None:
    """Elsewhere a private name belongs to ``self``, or to the class of the module."""
    found = []
    for path in sorted((API / "http").rglob("*.py")) + sorted((API / "fast").rglob("*.py")):
        if path == ADAPTER:
            continue
        for node in private_attributes(path):
            target: Any = node.value
            on_self = isinstance(target, ast.Name) and target.id in ("self", "cls")
            if not on_self and node.attr in PRIVATE:
                found.append(f"{path.name}: {ast.unparse(node)}")
    assert not found
    # A subclass could reach them through ``self``.
    assert not own(Site) & set(PRIVATE)
    used = {node.attr for node in private_attributes(Path(inspect.getfile(Site)))}
    assert not used & set(PRIVATE)
