"""Makes the records of requests that the fast path answers (``recorder`` has the rules)."""

from __future__ import annotations

import msgspec

from holdfast.api.oci.access import Caller
from holdfast.api.oci.app import KINDS
from holdfast.api.telemetry.request_record import RequestRecord
from holdfast.engine import BlobReader

from .heads import Peer, ReadRequest, WriteRequest


class Answer(msgspec.Struct, eq=False):
    """An answer to send, and the record of its request."""

    record: RequestRecord
    text: bytes
    """The head, and the content unless that is a file to follow."""
    reader: BlobReader | None = None
    """The reader of that file, open; the sender closes it."""


def record_of(
    request: ReadRequest | WriteRequest, peer: Peer, caller: Caller, started: float
) -> RequestRecord:
    """Return the record of a request that the caller may make.

    ``started`` is a time of ``time.perf_counter``.
    """
    headers, target, key = request.headers, request.target, caller.key
    return RequestRecord(
        request_id="",
        address=headers.address or peer.address,
        method=request.method,
        path=request.path,
        query=request.query,
        scheme=headers.origin.scheme,
        agent=headers.agent,
        parent=headers.parent,
        state=headers.state,
        route=target.endpoint,
        actor="" if key is None else key.access_key,
        kind=KINDS[target.endpoint],
        id=target.item,
        name=target.name,
        region=headers.origin.region,
        started=started,
    )
