"""The content of ``index.json`` (L2): named images, decided on bytes without I/O.

Follows ``image-layout.md``, "index.json file", and ``annotations.md`` of the OCI image specification.
Members and entries that are not understood are kept as they are.
"""

from __future__ import annotations

__all__ = ("EMPTY", "REF_NAME", "NotAnIndex", "digests", "listed", "updated")

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from aioruntime.errors import InvalidReference, StoreError, one_line
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.documents import Descriptor, digest_hook

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

REF_NAME = "org.opencontainers.image.ref.name"
# Annotations of ours that only our own record is believed.
_PRIVATE = "aioruntime."
EMPTY = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}'


class NotAnIndex(StoreError):
    """The bytes are none of an index."""


class _Entry(msgspec.Struct):
    """The part of an entry that tells its name, in whatever entry."""

    annotations: dict[str, msgspec.Raw] | None = None


class _Pointer(msgspec.Struct):
    """The part of an entry that tells its digest."""

    digest: str


def listed(raw: bytes | None, source: str) -> dict[str, Descriptor]:
    """List the images in an index.

    Args:
        raw: the index's bytes; None if there is none.
        source: the index's path, for messages.

    Returns:
        Descriptors by name, or by digest where an entry has no name. Of several with one name the first
        counts, as in other tools. Annotations in our own namespace are left out: whoever wrote the index
        could claim with them what is not so.

    Raises:
        NotAnIndex: *raw* is not an index.
    """
    found: dict[str, Descriptor] = {}
    for entry in _entries(_members(raw, source), source):
        name = _name(entry)
        if name in found:
            continue
        try:
            descriptor = msgspec.json.decode(entry, type=Descriptor, dec_hook=digest_hook)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue  # of a kind that we can't use, such as another hash algorithm
        found.setdefault(str(descriptor.digest) if name is None else name, _public(descriptor))
    return found


def _public(descriptor: Descriptor) -> Descriptor:
    annotations = descriptor.annotations or {}
    if not any(key.startswith(_PRIVATE) for key in annotations):
        return descriptor
    kept = {key: value for key, value in annotations.items() if not key.startswith(_PRIVATE)}
    return msgspec.structs.replace(descriptor, annotations=kept or None)


def digests(raw: bytes | None, source: str) -> list[ImageDigest]:
    """List what each entry of an index names, whatever else it says.

    Args:
        raw: the index's bytes; None if there is none.
        source: the index's path, for messages.

    Raises:
        NotAnIndex: *raw* is not an index.
    """
    found = []
    for entry in _entries(_members(raw, source), source):
        with suppress(InvalidReference):
            found.append(ImageDigest(_digest(entry) or ""))
    return found


def updated(
    raw: bytes | None,
    named: Mapping[str, Descriptor],
    gone: Collection[str],
    source: str,
    *,
    others: Collection[ImageDigest] = (),
    first: Collection[str] = (),
) -> bytes:
    """Return the index with some names in it and some not, all else unchanged.

    Args:
        raw: the index's bytes; None if there is none.
        named: what other tools shall find, by name, such as ``docker.io/library/ubuntu:22.04``.
        gone: names, or digests of entries without a name, that shall not be there.
        source: the index's path, for messages.
        others: digests of entries that shall not be there, whatever their names.
        first: names of which only the first entry is meant; further ones stay as they are.

    Raises:
        NotAnIndex: *raw* is not an index.
    """
    members = _members(raw, source)
    left = {name: msgspec.Raw(_encoded(name, descriptor)) for name, descriptor in named.items()}
    entries: list[msgspec.Raw] = []
    seen = set()
    for old in _entries(members, source):
        name, digest = _name(old), _digest(old)
        called = digest if name is None else name
        further = called in seen and called in first
        seen.add(called)
        if digest in others or (called in gone and not further):
            continue
        if further or name is None or name not in named:
            entries.append(old)
        elif name in left:
            entries.append(left.pop(name))
    return msgspec.json.encode({**members, "manifests": [*entries, *left.values()]})


def _encoded(name: str, descriptor: Descriptor) -> bytes:
    fields = msgspec.to_builtins(descriptor, enc_hook=str)
    fields["annotations"] = {**(descriptor.annotations or {}), REF_NAME: name}
    return msgspec.json.encode(_without_nulls(fields))


def _without_nulls(value: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_nulls(item) if isinstance(item, dict) else item
        for key, item in value.items()
        if item is not None
    }


def _members(raw: bytes | None, source: str) -> dict[str, msgspec.Raw]:
    members: dict[str, msgspec.Raw] = _decoded(EMPTY if raw is None else raw, dict[str, msgspec.Raw], source)
    return members


def _entries(members: dict[str, msgspec.Raw], source: str) -> list[msgspec.Raw]:
    entries = members.get("manifests")
    # Go writes an empty list as null.
    return [] if entries is None else _decoded(entries, list[msgspec.Raw] | None, source) or []


def _decoded(raw: bytes | msgspec.Raw, kind: Any, source: str) -> Any:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise NotAnIndex(f"{source} is not an image index: {one_line(str(exc))}") from exc


def _name(entry: msgspec.Raw) -> str | None:
    try:
        annotations = msgspec.json.decode(entry, type=_Entry).annotations or {}
        return msgspec.json.decode(annotations[REF_NAME], type=str)
    except (KeyError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _digest(entry: msgspec.Raw) -> str | None:
    try:
        return msgspec.json.decode(entry, type=_Pointer).digest
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
