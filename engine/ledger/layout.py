"""The keys of all rows of the ledger, one constant for each kind of row.

A key is one byte for the kind of row, then parts of fixed width, then at most one part of free
length, at the end or closed by a zero byte, which no name contains. Rows that change together with
a blob lie behind its row, under the blob's own key and a byte for the kind, and so share a page
with it. Numbers and times are big-endian, so that keys order as the numbers do. Each value is
sealed with version and checksum (``records``); the comments below name its payload, '' if the key
says everything. These bytes are the data format: a change of one needs a new format version in
``settings``. ``make docs`` writes docs/data-format.md from the comments.
"""

from __future__ import annotations

import hashlib
from typing import Final
from uuid import UUID

from holdfast.engine.model.digest import Digest
from holdfast.engine.model.errors import Kind

ID_BYTES: Final = 16
SHA_BYTES: Final = 32
ZERO_ID: Final = bytes(ID_BYTES)

# Blobs and files
BLOB: Final = b"b"  # sha256 -> records.Blob
INLINE: Final = b"B"  # when its blob came(8) sha256 -> content of a small blob
ALIAS: Final = b"a"  # digest key of another algorithm -> sha256
FILE: Final = b"f"  # file id -> records.File
PENDING_UNLINK: Final = b"d"  # file id -> '' : a file to unlink, which no other row names
BLOCK: Final = b"p"  # instance(8) block(8) -> '' : file ids in use by a living process
GARBAGE: Final = b"q"  # when(8) sha256 -> '' : due for removal at that time, unless referenced
DAMAGED: Final = b"z"  # sha256 -> '' : quarantined

# Claims: rights of owners to blobs
CLAIM: Final = b"c"  # (behind b sha256) owner(16) -> records.Claim
REFERENCE: Final = b"r"  # (behind b sha256) kind(1) project(16) namespace(16) owner(16) -> ''
CLAIMED: Final = b"C"  # image key, sha256 -> '' : blobs that the image has a claim on
EXPIRY: Final = b"h"  # until(8) owner(16) sha256 -> project(16) namespace(16)
ROOT: Final = b"R"  # owner(16) -> root name

# Names
NAMESPACE: Final = b"n"  # namespace id -> records.Namespace
NAMESPACE_NAME: Final = b"N"  # region 00 name -> namespace id
IMAGE: Final = b"i"  # image key -> records.Image
IMAGE_NAME: Final = b"I"  # namespace id, name -> image key
IMAGE_ID: Final = b"u"  # image id -> image key
CATALOG: Final = b"l"  # namespace id, visibility(1), image name -> image key
AUDIENCE: Final = b"v"  # scope, namespace name with a slash -> namespace id
TAG: Final = b"g"  # image key, name -> records.Tag
TAG_ID: Final = b"G"  # tag id -> image key, name
TAGGED: Final = b"y"  # image key sha256 name -> '' : a tag that points to the manifest
LISTING: Final = b"L"  # kind(1) scope order(1) sort-key id(16) -> namespace id, or ''

# Manifests
MANIFEST: Final = b"m"  # image key sha256 -> records.Manifest
NEEDS: Final = b"M"  # image key sha256 part(2) -> (need kind(1) sha256)*
REFERRER: Final = (
    b"x"  # image key, length(1) subject digest key, referrer sha256 -> records.Referrer
)

# Uploads: in the scratch ledger
SESSION: Final = b"s"  # session id -> records.Session
SESSION_DATA: Final = b"S"  # session id -> content so far of a small upload
SESSION_FILE: Final = b"F"  # file id -> session id
SESSION_EXPIRY: Final = b"e"  # until(8) session id -> ''
SESSION_NAMESPACE: Final = b"U"  # namespace id, session id -> ''

# Trash, keys, the rest
TRASH: Final = b"t"  # when(8) id(16) -> records.Trash
TRASH_ID: Final = b"T"  # id(16) -> when(8)
TRASH_PROJECT: Final = b"j"  # project(16) when(8) id(16) -> '' : the trash of a project
TRASH_MANIFEST: Final = b"J"  # id(16) list(8) position(8) -> sha256, media type : went with a tag
TRASH_ATTACHED: Final = b"A"  # id(16) list(8) id(16) -> '' : a tag that went with a tag
DEAD: Final = b"D"  # deleted namespace id -> its scope: listings omit its images
RETENTION: Final = b"w"  # namespace id -> records.Retention
DEAD_LETTER: Final = b"o"  # key of a row -> records.DeadLetter: a queue's entry that failed
KEY: Final = b"K"  # access key -> records.Key
KEY_SECRET: Final = b"k"  # sha256 of the secret -> access key
LIMITS: Final = b"Y"  # project(16) region 00 name -> records.Limits
PROJECT_LIMITS: Final = b"X"  # project(16) -> records.ProjectLimits
COUNTER: Final = b"#"  # name(2) scope -> counter
SETTING: Final = b"!"  # name -> value

# Kinds of reference
CONTENT: Final = b"c"
KEPT: Final = b"m"
HELD: Final = b"h"

BLOB_KEY_BYTES: Final = 1 + SHA_BYTES
"""Length of the key of a blob's row. Longer keys of the blob's group have their kind there."""
PROJECT_AT: Final = BLOB_KEY_BYTES + 2
NAMESPACE_AT: Final = PROJECT_AT + ID_BYTES
OWNER_AT: Final = NAMESPACE_AT + ID_BYTES
"""Offsets of the parts of a reference's key."""


def number(value: int) -> bytes:
    """Return eight bytes that order as the number (0 to 2^64 - 1)."""
    return value.to_bytes(8, "big")


def at(key: bytes, start: int) -> int:
    """Return the number in the eight bytes of a key from ``start``."""
    return int.from_bytes(key[start : start + 8], "big")


def kind(key: bytes) -> bytes:
    """Return the kind of a row: one of the bytes above, wherever it is in the key."""
    if key[:1] == BLOB and len(key) > BLOB_KEY_BYTES:
        return key[BLOB_KEY_BYTES : BLOB_KEY_BYTES + 1]
    return key[:1]


def content(created: int, sha: bytes) -> bytes:
    """Return the key of a small blob's content, in order of arrival so that pages fill up."""
    return INLINE + number(created) + sha


def claim(owner: bytes, sha: bytes) -> bytes:
    """Return the key of the owner's claim on a blob."""
    return BLOB + sha + CLAIM + owner


def claimed(owner: bytes, sha: bytes = b"") -> bytes:
    """Return the key of the row from an image to its claim; the prefix of all without ``sha``."""
    return CLAIMED + owner + sha


def references(sha: bytes, kind: bytes = b"") -> bytes:
    """Return the prefix of the references to a blob, or of those of one kind."""
    return BLOB + sha + REFERENCE + kind


def reference(sha: bytes, kind: bytes, project: bytes, namespace: bytes, owner: bytes) -> bytes:
    """Return the key of the row by which an owner references a blob in that way."""
    return references(sha, kind) + project + namespace + owner


def expiry(until: int, owner: bytes, sha: bytes) -> bytes:
    """Return the key of the row for the end of a hold."""
    return EXPIRY + number(until) + owner + sha


def name_key(region: str, name: str) -> bytes:
    """Return the part of a key for a name in a region."""
    return region.encode() + b"\0" + name.encode()


def place(project: bytes, region: str, name: str) -> bytes:
    """Return the part of a key for a namespace's name, which outlives the namespace."""
    return project + name_key(region, name)


def referrers_of(image: bytes, subject_key: bytes) -> bytes:
    """Return the prefix of the referrers of one subject in an image."""
    return REFERRER + image + bytes((len(subject_key),)) + subject_key


def root_owner(name: str) -> bytes:
    """Return the owner id of an embedder's root, derived from its name without a lookup."""
    return hashlib.sha256(b"root\0" + name.encode()).digest()[:ID_BYTES]


def counter(name: bytes, scope: bytes = b"") -> bytes:
    """Return the key of a counter; ``name`` is one of the two-letter names below."""
    return COUNTER + name + scope


IMAGE_SIZE: Final = b"is"  # image key
IMAGE_TAGS: Final = b"it"  # image key
NAMESPACE_SIZE: Final = b"ns"  # namespace id, as all of the next
NAMESPACE_IMAGES: Final = b"ni"
NAMESPACE_UNIQUE: Final = b"nu"
NAMESPACE_EXCLUSIVE: Final = b"ne"
NAMESPACE_PROJECT_EXCLUSIVE: Final = b"np"
NAMESPACE_MANIFESTS: Final = b"nm"
NAMESPACE_HELD: Final = b"nh"
PLACE_KEPT: Final = b"kp"  # place: project, region 00 name
PROJECT_KEPT: Final = b"kj"  # project
ROOT_BLOBS: Final = b"rb"  # root's owner id
LISTED: Final = b"ls"  # listing kind and scope (and name)
BLOBS: Final = b"sb"  # store-wide, as all of the next
BLOB_BYTES: Final = b"sB"
STORED_BYTES: Final = b"ss"
GARBAGE_LENGTH: Final = b"sq"
FREED_BYTES: Final = b"sf"
TRASH_LENGTH: Final = b"st"
DEAD_LETTERS: Final = b"sa"
NAMESPACES: Final = b"sn"
IMAGES: Final = b"si"
HOLDS: Final = b"sh"
UPLOADS: Final = b"su"  # store-wide, in the scratch ledger
NAMESPACE_UPLOADS: Final = b"nq"  # namespace id, in the scratch ledger
NAMESPACE_UPLOAD_BYTES: Final = b"nb"  # namespace id, in the scratch ledger
PROJECT_UPLOAD_BYTES: Final = b"pb"  # project, in the scratch ledger


def about(key: bytes) -> tuple[Kind, str]:
    """Return kind and name of a row's object, for people. The key may be any bytes."""
    row, rest = kind(key), key[1:]
    if row in (BLOB, INLINE, DAMAGED, GARBAGE):
        return "blob", _blob(rest[-SHA_BYTES:])
    if row == ALIAS:
        return "blob", _digest(rest)
    if row in (FILE, PENDING_UNLINK, SESSION_FILE):
        return "file", rest.hex().lstrip("0")
    if row in (CLAIM, REFERENCE):
        return "claim", f"{_blob(rest[:SHA_BYTES])} of {_id(rest[SHA_BYTES:][-ID_BYTES:])}"
    if row in (EXPIRY, CLAIMED):
        parts = rest[8:] if row == EXPIRY else rest
        return "claim", f"{_blob(parts[ID_BYTES:])} of {_id(parts[:ID_BYTES])}"
    if row == DEAD_LETTER:
        return about(rest)
    if row in _OF_IMAGES:
        sha = rest[ID_BYTES : ID_BYTES + SHA_BYTES]
        return "manifest", f"{_blob(sha)} of {_id(rest[:ID_BYTES])}"
    if row in _BY_ID:
        start = len(rest) - ID_BYTES if row in _ID_LAST else 0
        return _BY_ID[row], _id(rest[start : start + ID_BYTES])
    if row in _BY_NAME:
        what, start = _BY_NAME[row]
        return what, rest[start:].replace(b"\0", b" ").decode("utf-8", "backslashreplace")
    return "record", key.hex()


_OF_IMAGES: Final = (MANIFEST, NEEDS)
_BY_ID: Final[dict[bytes, Kind]] = {
    NAMESPACE: "namespace",
    DEAD: "namespace",
    RETENTION: "namespace",
    IMAGE: "image",
    IMAGE_ID: "image",
    TAG_ID: "tag",
    SESSION: "upload",
    SESSION_DATA: "upload",
    SESSION_EXPIRY: "upload",
    SESSION_NAMESPACE: "upload",
    PROJECT_LIMITS: "limit",
    TRASH: "trash",
    TRASH_ID: "trash",
    TRASH_PROJECT: "trash",
    TRASH_MANIFEST: "trash",
    TRASH_ATTACHED: "trash",
}
_ID_LAST: Final = (SESSION_EXPIRY, SESSION_NAMESPACE, TRASH, TRASH_PROJECT)
_BY_NAME: Final[dict[bytes, tuple[Kind, int]]] = {
    NAMESPACE_NAME: ("namespace", 0),
    IMAGE_NAME: ("image", ID_BYTES),
    CATALOG: ("image", ID_BYTES + 1),
    AUDIENCE: ("namespace", 1),
    TAG: ("tag", ID_BYTES),
    TAGGED: ("tag", ID_BYTES + SHA_BYTES),
    LIMITS: ("limit", ID_BYTES),
    KEY: ("key", 0),
    COUNTER: ("counter", 0),
    SETTING: ("setting", 0),
}
"""Kind of the object that text at a key's end names, and the text's offset after the first byte."""


def _blob(sha: bytes) -> str:
    return _digest(b"\x01" + sha)


def _digest(key: bytes) -> str:
    try:
        return str(Digest.from_key(key))
    except ValueError:
        return key.hex()


def _id(value: bytes) -> str:
    return str(UUID(bytes=value)) if len(value) == ID_BYTES else value.hex()
