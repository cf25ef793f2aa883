"""The content of ``index.json`` (L2): named images, decided on bytes without I/O.

Follows ``image-layout.md``, "index.json file", and ``annotations.md`` of the OCI image specification.
Members and entries that are not understood are kept as they are.
"""

from __future__ import annotations

__all__ = ("EMPTY", "REF_NAME", "references", "with_reference")

from typing import Any

import msgspec

from aioruntime.errors import InvalidSpec, StoreError, one_line
from aioruntime.oci.documents import Descriptor, digest_hook

REF_NAME = "org.opencontainers.image.ref.name"
EMPTY = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}'


class _Entry(msgspec.Struct):
    """The part of an entry that tells its name, in whatever entry."""

    annotations: dict[str, msgspec.Raw] | None = None


def references(raw: bytes | None, source: str) -> dict[str, Descriptor]:
    """List the named images in an index.

    Args:
        raw: the index's bytes; None if there is none.
        source: the index's path, for messages.

    Returns:
        Descriptors by name. Of several with one name the first counts, as in other tools.

    Raises:
        StoreError: *raw* is not an index.
    """
    found: dict[str, Descriptor] = {}
    for entry in _entries(_members(raw, source), source):
        name = _name(entry)
        if name is None or name in found:
            continue
        try:
            found[name] = msgspec.json.decode(entry, type=Descriptor, dec_hook=digest_hook)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue  # of a kind that we can't use, such as another hash algorithm
    return found


def with_reference(raw: bytes | None, name: str, descriptor: Descriptor, source: str) -> bytes:
    """Return the index with *name* naming *descriptor*, all else in it unchanged.

    Args:
        raw: the index's bytes; None if there is none.
        name: what other tools find the image by, such as ``docker.io/library/ubuntu:22.04``.
        descriptor: of a manifest or an index in the store.
        source: the index's path, for messages.

    Raises:
        StoreError: *raw* is not an index.
        InvalidSpec: *name* is empty.
    """
    if not name:
        raise InvalidSpec("an image in the store needs a name that is not empty")
    members = _members(raw, source)
    entry = msgspec.Raw(_encoded(name, descriptor))
    entries: list[msgspec.Raw] = []
    placed = False
    for old in _entries(members, source):
        if _name(old) != name:
            entries.append(old)
        elif not placed:
            entries.append(entry)
            placed = True
    if not placed:
        entries.append(entry)
    return msgspec.json.encode({**members, "manifests": entries})


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
        raise StoreError(
            f"{source} is not an image index ({one_line(str(exc))}); move it away, then pull the images again"
        ) from exc


def _name(entry: msgspec.Raw) -> str | None:
    try:
        annotations = msgspec.json.decode(entry, type=_Entry).annotations or {}
        return msgspec.json.decode(annotations[REF_NAME], type=str)
    except (KeyError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
