"""Maps errors to answers of the distribution API: one table from engine errors to OCI codes.

Implements "Error Codes" of the OCI distribution-spec. Every error body is
``{"errors":[{"code","message","detail"}]}`` with the exact type ``application/json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
from aiohttp import web

from holdfast.engine import (
    AlreadyExists,
    Busy,
    Conflict,
    Corrupt,
    DescriptorMismatch,
    EngineError,
    Immutable,
    InUse,
    Invalid,
    Locked,
    MissingContent,
    NotFound,
    OffsetMismatch,
    PreconditionFailed,
    QuotaExceeded,
    StorageFull,
    TooLarge,
    Unusable,
)

JSON: Final = "application/json"

RETRY_SECONDS: Final = 1
"""Retry-After of TOOMANYREQUESTS in seconds: sessions are freed as fast as pushes end."""

MISSING_SHOWN_MAX: Final = 256
"""Missing digests listed in one answer, so that it stays under 64 KiB. Half as many of a wrong
size, whose entries are longer."""


@dataclass(frozen=True, slots=True)
class Code:
    """An error code: its usual status, its origin, and its default message."""

    status: int
    origin: Literal["oci", "legacy"]
    message: str


CODES: Final[Mapping[str, Code]] = {
    "BLOB_UNKNOWN": Code(404, "oci", "the blob is not known in this repository"),
    "BLOB_UPLOAD_INVALID": Code(400, "oci", "the blob upload is invalid"),
    "BLOB_UPLOAD_UNKNOWN": Code(404, "oci", "the upload session is not known"),
    "DIGEST_INVALID": Code(400, "oci", "the digest does not match the content, or is malformed"),
    "MANIFEST_BLOB_UNKNOWN": Code(400, "oci", "the manifest needs content that is not here"),
    "MANIFEST_INVALID": Code(400, "oci", "the manifest is invalid"),
    "MANIFEST_UNKNOWN": Code(404, "oci", "the manifest is not known in this repository"),
    "NAME_INVALID": Code(400, "oci", "the repository name is invalid"),
    "NAME_UNKNOWN": Code(404, "oci", "the repository is not known"),
    "SIZE_INVALID": Code(400, "oci", "the content does not have the announced length"),
    "UNAUTHORIZED": Code(401, "oci", "authentication is required"),
    "DENIED": Code(403, "oci", "the access is denied"),
    "UNSUPPORTED": Code(405, "oci", "the operation is not supported"),
    "TOOMANYREQUESTS": Code(429, "oci", "too many requests"),
    "RANGE_INVALID": Code(416, "legacy", "the range is outside of the content"),
    "PAGINATION_NUMBER_INVALID": Code(400, "legacy", "n is not a number of results"),
    "UNAVAILABLE": Code(503, "legacy", "the registry cannot serve this now"),
    "UNKNOWN": Code(500, "legacy", "an unexpected error occurred"),
}
"""Every code that is sent: the list of the OCI distribution-spec, and four of the Docker registry
for cases without a code in the spec."""


class OciError(Exception):
    """An answer that ends a request: a status, one or more OCI errors, and extra headers.

    Each item of ``details`` makes an entry; None makes one entry without a detail.
    """

    def __init__(
        self,
        code: str,
        message: str | None = None,
        *,
        status: int | None = None,
        details: tuple[Any, ...] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        defaults = CODES[code]
        super().__init__(message or defaults.message)
        self.code = code
        self.message = message or defaults.message
        self.status = status or defaults.status
        self.details = details
        self.headers: dict[str, str] = dict(headers or {})

    def body(self) -> bytes:
        """Return the JSON document (OCI distribution-spec, "Error Codes")."""
        plain = {"code": self.code, "message": self.message}
        details = self.details
        errors = [plain] if details is None else [{**plain, "detail": item} for item in details]
        return msgspec.json.encode({"errors": errors})

    def response(self) -> web.Response:
        """Return the whole answer."""
        response = web.Response(status=self.status, body=self.body(), headers=self.headers)
        response.headers["Content-Type"] = JSON
        return response


def too_many(seconds: int, message: str) -> OciError:
    """Return the error 429 with the seconds until the next try (RFC 6585 section 4)."""
    return OciError("TOOMANYREQUESTS", message, headers={"Retry-After": str(seconds)})


@dataclass(frozen=True, slots=True)
class Row:
    """The answer to one engine error; None as ``message`` sends the error's own text."""

    status: int
    code: str
    message: str | None = None


ANY: Final = "*"
"""Subject of the row for every subject that has no row of its own."""

TABLE: Final[Mapping[type[EngineError], Mapping[str, Row]]] = {
    NotFound: {
        "blob": Row(404, "BLOB_UNKNOWN"),
        "manifest": Row(404, "MANIFEST_UNKNOWN"),
        "tag": Row(404, "MANIFEST_UNKNOWN"),
        "upload": Row(404, "BLOB_UPLOAD_UNKNOWN"),
        ANY: Row(404, "NAME_UNKNOWN"),
    },
    AlreadyExists: {ANY: Row(409, "DENIED")},
    Invalid: {
        "name": Row(400, "NAME_INVALID"),
        "digest": Row(400, "DIGEST_INVALID"),
        "tag": Row(400, "MANIFEST_INVALID"),
        "manifest": Row(400, "MANIFEST_INVALID"),
        "offset": Row(416, "RANGE_INVALID"),
        "size": Row(400, "SIZE_INVALID"),
        ANY: Row(400, "UNSUPPORTED"),
    },
    TooLarge: {
        "manifest": Row(413, "MANIFEST_INVALID"),
        ANY: Row(413, "SIZE_INVALID"),
    },
    MissingContent: {
        ANY: Row(400, "MANIFEST_BLOB_UNKNOWN", CODES["MANIFEST_BLOB_UNKNOWN"].message)
    },
    # RANGE_INVALID would fit better, but is not in the spec's list.
    OffsetMismatch: {ANY: Row(416, "BLOB_UPLOAD_INVALID")},
    Busy: {ANY: Row(429, "TOOMANYREQUESTS")},
    Locked: {ANY: Row(403, "DENIED")},
    InUse: {ANY: Row(405, "UNSUPPORTED")},
    Immutable: {ANY: Row(403, "DENIED")},
    # The spec has no code for a failed condition. MANIFEST_INVALID would make some clients try
    # another format; DENIED stops them.
    PreconditionFailed: {ANY: Row(412, "DENIED")},
    QuotaExceeded: {
        "uploads": Row(429, "TOOMANYREQUESTS"),
        ANY: Row(403, "DENIED"),
    },
    Conflict: {ANY: Row(409, "DENIED")},
    # A damaged blob looks absent to clients: so they push it again, which repairs it.
    Corrupt: {
        "blob": Row(404, "BLOB_UNKNOWN", CODES["BLOB_UNKNOWN"].message),
        "manifest": Row(404, "MANIFEST_UNKNOWN", CODES["MANIFEST_UNKNOWN"].message),
        ANY: Row(503, "UNAVAILABLE", CODES["UNAVAILABLE"].message),
    },
    StorageFull: {ANY: Row(507, "UNAVAILABLE", "no space is left")},
    Unusable: {ANY: Row(503, "UNAVAILABLE", CODES["UNAVAILABLE"].message)},
    EngineError: {ANY: Row(503, "UNAVAILABLE", CODES["UNAVAILABLE"].message)},
}
"""Status and code by engine error (the nearest class in its ancestry), then by subject."""


def _subject(error: EngineError) -> str:
    """Return the subject of an error: its kind, argument or resource."""
    for attribute in ("kind", "argument", "resource"):
        value = getattr(error, attribute, None)
        if isinstance(value, str):
            return value
    return ANY


def row_of(error: EngineError) -> Row:
    """Return the table's row for an engine error."""
    rows = next(TABLE[kind] for kind in type(error).__mro__ if kind in TABLE)
    return rows.get(_subject(error)) or rows[ANY]


def oci_error(error: EngineError) -> OciError:
    """Return the answer to an engine error."""
    row = row_of(error)
    details: tuple[Any, ...] | None = None
    headers: dict[str, str] = {}
    if isinstance(error, MissingContent):
        details = tuple({"digest": digest} for digest in error.digests[:MISSING_SHOWN_MAX])
    elif isinstance(error, DescriptorMismatch):
        details = tuple(
            {"digest": digest, "size": size, "announced": announced}
            for digest, size, announced in error.wrong[: MISSING_SHOWN_MAX // 2]
        )
    elif isinstance(error, PreconditionFailed):
        details = ({"current": error.current},)
    message = row.message or str(error)
    if isinstance(error, Invalid) and row.code == "NAME_INVALID":
        # The code names the subject already.
        message = error.reason
    if row.status == 429:
        headers["Retry-After"] = str(RETRY_SECONDS)
    if row.status == 405:
        headers["Allow"] = "GET, HEAD"
    return OciError(row.code, message, status=row.status, details=details, headers=headers)
