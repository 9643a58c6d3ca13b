"""What a client asks of a registry: pushes and pulls, each answer checked.

OCI distribution-spec, "Pushing" and "Pulling". WrongAnswer voids the row it happens in.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from .content import MANIFEST_TYPE, PIECE_BYTES, Blob, Image
from .wire import Address, Answer, Client

CHUNK_BYTES: Final = 16 << 20
"""One PATCH of an upload in several."""

REASON_MAX: Final = 200

_OCTETS: Final = "Content-Type: application/octet-stream\r\n"
_ACCEPT: Final = f"Accept: {MANIFEST_TYPE}\r\n"


class Style(StrEnum):
    """How bytes are sent."""

    DOCKER = "docker"
    """POST, one PATCH with chunked transfer encoding and no length, PUT."""

    WHOLE = "whole"
    """POST, PUT with all bytes."""

    PARTS = "parts"
    """POST, a PATCH with Content-Range for every 16 MiB, PUT."""


class Moved(NamedTuple):
    """Bytes of content that an operation moved."""

    sent: int = 0
    received: int = 0


class Exhausted(Exception):
    """A client has nothing left to do."""


class WrongAnswer(Exception):
    """A status, size or digest that is not the right one. The text is one line."""


def expect(answer: Answer, status: int, what: str) -> None:
    """Raises WrongAnswer for another status."""
    if answer.status != status:
        raise WrongAnswer(f"{what}: {answer.status}, not {status} {reason(answer.body)}".rstrip())


def reason(body: bytes) -> str:
    """Why a registry refuses: the first error in OCI's form, else how its answer begins."""
    try:
        error = msgspec.json.decode(body)["errors"][0]
        text = f"{error['code']}: {error['message']}"
    except (msgspec.DecodeError, UnicodeDecodeError, LookupError, TypeError):
        text = body.decode("utf-8", "replace")
    return " ".join(text.split())[:REASON_MAX]


class Registry:
    """One client of one repository."""

    def __init__(self, address: Address, authorization: str, repository: str) -> None:
        self.client = Client(address, authorization)
        self.repository = repository
        self._base = f"/v2/{repository}"

    def close(self) -> None:
        """Close the connection."""
        self.client.close()

    async def has_blob(self, digest: str) -> bool:
        """HEAD: whether the repository has it."""
        answer = await self.client.request("HEAD", f"{self._base}/blobs/{digest}")
        if answer.status not in (200, 404):
            expect(answer, 200, "HEAD of a blob")
        return answer.status == 200

    async def push_blob(self, blob: Blob, style: Style) -> None:
        """Upload a blob, whether it is there or not."""
        answer = await self.client.request("POST", f"{self._base}/blobs/uploads/", keep=True)
        expect(answer, 202, "POST of an upload")
        if style is Style.WHOLE:
            body: Sequence[bytes] | None = blob.pieces
        else:
            body = None
            for sent, pieces in _parts(blob, style):
                headers = _OCTETS
                if style is Style.PARTS:
                    last = sent + sum(map(len, pieces)) - 1
                    headers += f"Content-Range: {sent}-{last}\r\n"
                answer = await self.client.request(
                    "PATCH",
                    _location(answer),
                    headers,
                    pieces,
                    chunked=style is Style.DOCKER,
                    keep=True,
                )
                expect(answer, 202, "PATCH of an upload")
        where = _location(answer)
        where += f"{'&' if '?' in where else '?'}digest={blob.digest}"
        answer = await self.client.request("PUT", where, _OCTETS, body, keep=True)
        expect(answer, 201, "PUT of an upload")
        said = answer.header("Docker-Content-Digest")
        if said not in ("", blob.digest):
            raise WrongAnswer(f"PUT of an upload: digest {said}, not {blob.digest}")

    async def push_manifest(self, reference: str, manifest: bytes, digest: str) -> None:
        """PUT a manifest under a tag or its digest."""
        answer = await self.client.request(
            "PUT",
            f"{self._base}/manifests/{reference}",
            f"Content-Type: {MANIFEST_TYPE}\r\n",
            (manifest,),
            keep=True,
        )
        expect(answer, 201, "PUT of a manifest")
        said = answer.header("Docker-Content-Digest")
        if said not in ("", digest):
            raise WrongAnswer(f"PUT of a manifest: digest {said}, not {digest}")

    async def push_image(self, image: Image, tag: str, style: Style, *, blind: bool = False) -> int:
        """Push what is missing, then the manifest; bytes sent.

        ``blind`` sends the bytes without asking first.
        """
        sent = 0
        for blob in image.blobs:
            if blind or not await self.has_blob(blob.digest):
                await self.push_blob(blob, style)
                sent += blob.size
        await self.push_manifest(tag, image.manifest, image.digest)
        return sent + len(image.manifest)

    async def pull_manifest(self, reference: str, digest: str, *, verify: bool = False) -> int:
        """GET a manifest, with any digest where none is given; the bytes it has."""
        answer = await self.client.request(
            "GET", f"{self._base}/manifests/{reference}", _ACCEPT, digest=verify
        )
        expect(answer, 200, "GET of a manifest")
        said = answer.header("Docker-Content-Digest")
        if digest and said not in ("", digest):
            raise WrongAnswer(f"GET of a manifest: digest {said}, not {digest}")
        if verify and answer.digest != digest:
            raise WrongAnswer(f"GET of a manifest: its bytes have {answer.digest}, not {digest}")
        return answer.size

    async def has_manifest(self, reference: str) -> bool:
        """HEAD: whether the manifest is there."""
        target = f"{self._base}/manifests/{reference}"
        answer = await self.client.request("HEAD", target, _ACCEPT)
        if answer.status not in (200, 404):
            expect(answer, 200, "HEAD of a manifest")
        return answer.status == 200

    async def pull_blob(self, digest: str, size: int, *, verify: bool = False) -> int:
        """GET a blob; the bytes it has."""
        target = f"{self._base}/blobs/{digest}"
        answer = await self.client.request("GET", target, digest=verify)
        expect(answer, 200, "GET of a blob")
        if answer.size != size:
            raise WrongAnswer(f"GET of a blob: {answer.size} bytes, not {size}")
        if verify and answer.digest != digest:
            raise WrongAnswer(f"GET of a blob: its bytes have {answer.digest}, not {digest}")
        return answer.size

    async def pull_range(self, digest: str, first: int, last: int, want: bytes | None) -> int:
        """GET bytes ``first`` to ``last`` of a blob, compared with ``want`` where given."""
        answer = await self.client.request(
            "GET",
            f"{self._base}/blobs/{digest}",
            f"Range: bytes={first}-{last}\r\n",
            keep=want is not None,
        )
        expect(answer, 206, "GET of a range")
        if answer.size != last - first + 1:
            raise WrongAnswer(f"GET of a range: {answer.size} bytes, not {last - first + 1}")
        if want is not None and answer.body != want:
            raise WrongAnswer("GET of a range: other bytes")
        return answer.size

    async def pull_image(self, image: Image, tag: str, *, verify: bool = False) -> int:
        """GET the manifest by tag and all blobs; bytes received."""
        size = await self.pull_manifest(tag, image.digest, verify=verify)
        for blob in image.blobs:
            size += await self.pull_blob(blob.digest, blob.size, verify=verify)
        return size


def _parts(blob: Blob, style: Style) -> list[tuple[int, Sequence[bytes]]]:
    """Offsets and pieces of each PATCH."""
    if style is Style.DOCKER:
        return [(0, blob.pieces)]
    count = CHUNK_BYTES // PIECE_BYTES
    return [
        (start * PIECE_BYTES, blob.pieces[start : start + count])
        for start in range(0, len(blob.pieces), count)
    ]


def _location(answer: Answer) -> str:
    """Where to go on: the path and query of Location, absolute or not."""
    location = answer.header("Location")
    if not location:
        raise WrongAnswer(f"{answer.status} without Location")
    parts = urlsplit(location)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path
