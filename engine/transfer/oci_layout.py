"""Reads and imports an OCI image layout (OCI image-spec, "Image Layout"), a directory of images.

oci-layout         the version of the layout
index.json         an index of the images; their names are annotations of its entries
blobs/ALG/HEX      manifests, configs and layers
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from holdfast.engine.model.digest import Digest
from holdfast.engine.model.documents import MEDIA_TYPES, OCI_INDEX, SCHEMA_VERSION, SIZE_MAX
from holdfast.engine.model.errors import Invalid, NotFound
from holdfast.engine.model.names import check_tag_name
from holdfast.engine.model.values import Repository

from .image_import import Entry, Transferred, import_images
from .interface import Registry
from .untrusted_files import UntrustedFiles

LAYOUT_FILE: Final = "oci-layout"
INDEX_FILE: Final = "index.json"
BLOBS: Final = "blobs"
VERSION: Final = "1.0.0"
REF_NAME: Final = "org.opencontainers.image.ref.name"

INDEX_BYTES_MAX: Final = 16 * 1024 * 1024
"""Largest ``index.json`` in bytes: about 50,000 entries."""
_VERSION_BYTES_MAX: Final = 4096


class _Version(msgspec.Struct):
    version: str = msgspec.field(name="imageLayoutVersion")


class _Descriptor(msgspec.Struct, rename="camel"):
    digest: str
    size: Annotated[int, msgspec.Meta(ge=0, le=SIZE_MAX)]
    media_type: str | None = None
    annotations: dict[str, str] | None = None


class _Index(msgspec.Struct, rename="camel"):
    schema_version: int
    manifests: list[_Descriptor]
    media_type: str | None = None


_version_decoder: Final = msgspec.json.Decoder(_Version)
_index_decoder: Final = msgspec.json.Decoder(_Index)


def check_version(content: bytes) -> None:
    """Check the content of the ``oci-layout`` file. Raises Invalid (``layout``)."""
    try:
        version = _version_decoder.decode(content).version
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Invalid("layout", f"{LAYOUT_FILE}: {error}") from None
    if version != VERSION:
        raise Invalid("layout", f"its version must be {VERSION}, not {version[:40]!r}")


def parse_index(content: bytes) -> list[_Descriptor]:
    """Parse the entries of ``index.json``. Raises Invalid (``layout``)."""
    try:
        index = _index_decoder.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid("layout", f"{INDEX_FILE}: {error}") from None
    if index.schema_version != SCHEMA_VERSION:
        raise Invalid("layout", f"{INDEX_FILE}: schemaVersion must be {SCHEMA_VERSION}")
    if index.media_type not in (None, OCI_INDEX):
        raise Invalid("layout", f"{INDEX_FILE}: mediaType must be {OCI_INDEX}")
    return index.manifests


def read_entries(content: bytes) -> list[dict[str, Any]]:
    """Return the entries of ``index.json`` with all fields, to write them back. Raises Invalid."""
    parse_index(content)
    entries: list[dict[str, Any]] = msgspec.json.decode(content)["manifests"]
    return entries


def tag_of(name: str) -> str:
    """Return the tag in an entry's name: the name itself, or the end of a full reference.

    ``v1`` and ``registry:5000/app/web:v1`` both give ``v1``. Raises Invalid (``tag``).
    """
    _, colon, last = name.rpartition(":")
    return check_tag_name(last if colon and "/" not in last and "@" not in name else name)


class LayoutSource:
    """An ``image_import.Source`` that reads a layout."""

    def __init__(self, path: Path) -> None:
        self._files = UntrustedFiles(path)

    async def entries(self) -> list[_Descriptor]:
        """Read the entries of ``index.json``.

        Raises Invalid, NotFound, TooLarge, StorageFailed.
        """
        check_version(await self._files.read(LAYOUT_FILE, limit=_VERSION_BYTES_MAX))
        return parse_index(await self._files.read(INDEX_FILE, limit=INDEX_BYTES_MAX))

    async def size(self, digest: Digest) -> int:
        """Return the size of a blob in bytes."""
        return await self._files.size(*_path_of(digest))

    async def read(self, digest: Digest, limit: int) -> bytes:
        """Read a whole blob."""
        return await self._files.read(*_path_of(digest), limit=limit)

    def pieces(self, digest: Digest) -> AsyncIterator[bytes]:
        """Read a blob in pieces."""
        return self._files.pieces(*_path_of(digest))


def _path_of(digest: Digest) -> tuple[str, str, str]:
    return BLOBS, digest.algorithm, digest.raw.hex()


async def import_layout(
    store: Registry,
    repository: Repository,
    path: Path,
    *,
    references: Sequence[str] | None = None,
) -> AsyncGenerator[Transferred, None]:
    """Import images of a layout into a repository, byte for byte; iterate to run it.

    Imports all entries of ``index.json``, or only ``references``: names or digests of entries.
    A name becomes a tag (see ``tag_of``); an entry without a name stays untagged. Entries of
    other media types are skipped. Nothing is listed before all content is in the store and
    matches its digest. Raises Invalid (``layout``, ``path``, ``tag``), NotFound for a reference
    or a file of the layout, and what ``import_images`` raises.
    """
    source = LayoutSource(path)
    entries = _choose(await source.entries(), references)
    async for done in import_images(store, repository, source, entries):
        yield done


def _choose(found: list[_Descriptor], references: Sequence[str] | None) -> list[Entry]:
    """Select the entries to import, each digest once. Raises Invalid, NotFound."""
    wanted = None if references is None else set(references)
    tagged: dict[str, str] = {}
    chosen: dict[str, Entry] = {}
    for item in found:
        if item.media_type is not None and item.media_type not in MEDIA_TYPES:
            continue
        name = (item.annotations or {}).get(REF_NAME, "")
        if wanted is not None and not wanted & {name, item.digest}:
            continue
        known = chosen.get(item.digest) or Entry(
            item.digest, media_type=item.media_type, size=item.size
        )
        if name:
            tag = tag_of(name)
            if tagged.setdefault(tag, item.digest) != item.digest:
                raise Invalid("layout", f"two manifests would have the tag {tag}")
            tags = tuple(dict.fromkeys((*known.tags, tag)))
            known = Entry(item.digest, tags, known.media_type, known.size)
        chosen[item.digest] = known
    names = {(item.annotations or {}).get(REF_NAME) for item in found} | chosen.keys()
    for reference in references or ():
        if reference not in names:
            raise NotFound("manifest", reference)
    return list(chosen.values())
