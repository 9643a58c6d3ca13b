"""Every parser of what clients write, fed with anything: it answers, or refuses in its own way, in
bounded time, and what it accepts means the same when it is read again.

Manifests have the same in ``tests/engine/test_documents.py``, paths and scopes in
``test_distribution_pure.py``, whole requests in ``test_distribution_fuzz.py``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address, ip_network
from types import SimpleNamespace
from typing import Final, cast

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError, TransferEncodingError
from aiohttp.http_parser import HttpRequestParser
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.api import AppSettings
from holdfast.api.fast.heads import WriteRequest
from holdfast.api.fast.writes import Gathering
from holdfast.api.http.client_address import address_behind
from holdfast.api.http.origin import HOST_CHARS_MAX, forwarded_origin
from holdfast.api.http.queries import PARAMETERS_MAX, parse_query
from holdfast.api.http.ranges import RANGES_MAX, Unsatisfiable, parse_content_range, parse_range
from holdfast.api.oci import tokens
from holdfast.engine import Digest, Invalid, SigningKey, is_digest
from holdfast.engine.model.documents import parse
from holdfast.engine.model.names import (
    FULL_NAME_CHARS_MAX,
    NAMESPACE_CHARS_MAX,
    TAG_CHARS_MAX,
    check_namespace_name,
    check_tag_name,
    split_full_name,
)

ANY: Final = st.text(max_size=300)


def near(alphabet: str, most: int = 80) -> st.SearchStrategy[str]:
    """Texts of these characters mainly, and anything else."""
    return st.text(st.sampled_from(alphabet) | st.characters(), max_size=most) | ANY


# Names and digests


@pytest.mark.parametrize(
    ("check", "most"),
    [
        (check_namespace_name, NAMESPACE_CHARS_MAX),
        (check_tag_name, TAG_CHARS_MAX),
        (lambda full: "/".join(split_full_name(full)), FULL_NAME_CHARS_MAX),
    ],
    ids=["namespace", "tag", "full"],
)
@given(text=near("ab0-_./:AZ", 300))
def test_names(check: Callable[[str], str], most: int, text: str) -> None:
    """What passes is the text itself, of few characters, none of which mean anything elsewhere."""
    with suppress(Invalid):
        assert check(text) == text
        assert 0 < len(text) <= most
        assert text.isascii()
        assert not set(text) & set("\0\r\n %?#\\\"'<>:") | {"..", "//"} & {text}


@given(
    near("sha256:0af")
    | st.builds("{}:{}".format, st.sampled_from(("sha256", "sha512", "md5")), near("0af", 130))
    | st.binary(min_size=30, max_size=34).map(lambda raw: f"sha256:{raw.hex()}")
)
def test_digests(text: str) -> None:
    try:
        digest = Digest.parse(text)
    except Invalid:
        return
    assert str(digest) == text
    assert is_digest(text)
    assert Digest.from_key(digest.key) == digest


# Ranges


@given(
    near("bytes=0123456789-, "),
    st.integers(0, 1 << 40),
)
@example("bytes=" + ",".join(["0-0"] * (RANGES_MAX + 1)), 100)
@example("bytes=9999999999999999999-,-9999999999999999999", 10)
def test_ranges(header: str, size: int) -> None:
    with suppress(Unsatisfiable):
        spans = parse_range(header, size)
        assert len(spans) <= RANGES_MAX
        assert all(0 <= span.offset < span.offset + span.length <= size for span in spans)
        assert len(spans) < 2 or sum(span.length for span in spans) <= size
    span = parse_content_range(header)
    if span is not None:
        assert span.offset >= 0
        assert span.length > 0
        assert parse_content_range(f"{span.offset}-{span.offset + span.length - 1}") == span


# Manifests


@pytest.mark.promise("SECURITY.md", "content")
@given(
    st.binary(max_size=200)
    | near('{}[]",:0e-9mediaTyp').map(lambda text: text.encode("utf-8", "replace"))
)
@example(b"[" * 100_000)
@example(b'{"schemaVersion": 1' + b"0" * 100_000 + b"}")
@example(b'{"schemaVersion": 1e' + b"9" * 10_000 + b"}")
@example(b'{"a":' * 50_000 + b"1" + b"}" * 50_000)
def test_manifests_of_any_bytes(body: bytes) -> None:
    begun = time.process_time()
    with suppress(Invalid):
        parse(body, None, limit=1 << 20)
    assert time.process_time() - begun < 5


# Chunks


def framed(pieces: list[bytes]) -> bytes:
    chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece]
    return b"".join(chunks) + b"0\r\n\r\n"


def gathered(data: bytes, steps: list[int]) -> Gathering:
    """A push whose body came in steps of these sizes, again and again, until it was decided."""
    headers = SimpleNamespace(length=None)
    push = Gathering(cast(WriteRequest, SimpleNamespace(headers=headers)), HEAD, len(HEAD))
    at = turn = 0
    while at < len(data) and push.state == "more":
        step = steps[turn % len(steps)]
        push.feed(data[at : at + step])
        at, turn = at + step, turn + 1
    if at < len(data) and push.state == "whole":
        push.feed(data[at:])
    return push


async def parsed(body: bytes) -> bytes | None:
    """The content that aiohttp finds in a chunked body that is whole; None if it refuses it."""
    loop = asyncio.get_running_loop()
    parser = HttpRequestParser(BaseProtocol(loop), loop, 1 << 16)
    with suppress(HttpProcessingError, TransferEncodingError):
        messages, _, _ = parser.feed_data(HEAD + body)
        if len(messages) == 1 and messages[0][1].is_eof():
            return await messages[0][1].read()
    return None


HEAD: Final = (
    b"PATCH /v2/a/b/blobs/uploads/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
)
STEPS: Final = st.lists(st.integers(1, 40), min_size=1, max_size=5)


@given(st.lists(st.binary(max_size=30), max_size=5), st.binary(max_size=20), STEPS)
def test_chunks_in_steps_of_any_size(pieces: list[bytes], after: bytes, steps: list[int]) -> None:
    sent = framed(pieces)
    push = gathered(sent + after, steps)
    assert (HEAD + sent + after).startswith(b"".join(push.packets))
    assert push.state == ("declined" if after else "whole")
    if not after:
        assert push.whole_body == b"".join(pieces)


@given(
    st.binary(max_size=80)
    | st.lists(
        st.sampled_from((b"\r\n", b"\r", b"\n", b"0", b"5", b";x", b"ab", b"F" * 15, b":", b" ")),
        max_size=20,
    ).map(b"".join)
    | st.lists(st.binary(max_size=9), max_size=3).map(framed),
    STEPS,
)
@example(b"0" * 2000, [1])
@example(b"ffff\r\n", [1])
@example(b"1\r\nx\r\n0\r\nX: y\r\n\r\n", [100])
def test_chunks_of_anything(data: bytes, steps: list[int]) -> None:
    """The same in whatever steps they come; whole only if the parser finds the same content."""
    whole, pushed = gathered(data, [len(data) or 1]), gathered(data, steps)
    assert pushed.state == whole.state
    if whole.state == "whole":
        assert asyncio.run(parsed(data)) == whole.whole_body == pushed.whole_body


# Tokens, queries, forwarded headers


KEY: Final = bytes(range(32))


def token(seconds: int = 300) -> str:
    return tokens.issue(
        KEY,
        "access",
        access_key="SCW",
        region="fr-par",
        scopes={("repository", "team/app"): frozenset(("pull",))},
        now=int(time.time()),
        seconds=seconds,
    )


@given(near("eyJ.-_=A0") | st.lists(near("eyJA_-"), min_size=3, max_size=3).map(".".join))
def test_tokens_of_anything(text: str) -> None:
    with pytest.raises(tokens.BadToken):
        tokens.read((SigningKey(KEY),), text, "access")


@pytest.mark.promise("SECURITY.md", "tokens")
@given(st.data())
def test_no_changed_token_is_one(data: st.DataObject) -> None:
    """Its last character has bits that mean nothing: it is not among those changed."""
    whole = token()
    at = data.draw(st.integers(0, len(whole) - 2))
    changed = whole[:at] + data.draw(st.characters()) + whole[at + data.draw(st.integers(0, 1)) :]
    if changed != whole:
        with pytest.raises(tokens.BadToken):
            tokens.read((SigningKey(KEY),), changed, "access")
    with pytest.raises(tokens.BadToken):
        tokens.read((SigningKey(bytes(32)),), whole, "access")
    assert tokens.read((SigningKey(KEY),), whole, "access").access_key == "SCW"


@given(near("ab=&%+20;", 300))
@example("&".join(["a=b"] * (PARAMETERS_MAX + 10)))
def test_queries(raw: str) -> None:
    query = parse_query(raw)
    pairs = list(query)
    assert len(pairs) <= PARAMETERS_MAX
    # Written out again it says the same, in characters that need no escape.
    again = query.with_values()
    assert again.isascii()
    if all(text.isascii() for pair in pairs for text in pair):
        assert list(parse_query(again)) == pairs


@given(near("10.2:,[]fe "), near("a.:[]/@,0"), near("htps,:"))
@example("::ffff:10.0.0.1, unknown", "evil.example\r\nX: y", "https, http")
def test_forwarded_headers(chain: str, host: str, scheme: str) -> None:
    settings = AppSettings(trusted_proxies=(ip_network("10.0.0.0/8"), ip_network("fe80::/10")))
    address = address_behind("10.0.0.1", chain, settings)
    assert str(ip_address(address)) == address
    origin = forwarded_origin("http", "here:5000", scheme, host, settings)
    assert origin.scheme in ("http", "https")
    assert len(origin.host) <= HOST_CHARS_MAX
    assert not set(origin.host) & set(' \r\n\0"\\/@?#,;<>')
    assert origin.region in settings.regions
