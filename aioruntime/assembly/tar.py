"""Read a tar archive as engines do: header by header, in bounded memory, nothing extracted (L3).

What counts is how Go's ``archive/tar`` reads it, since Docker, containerd and Podman are made with that:
POSIX ustar, pax and GNU headers. A header is kept as the blocks that it came in, so that what is passed
on (times, owners, extended attributes, sparse maps) is passed on unaltered.
"""

from __future__ import annotations

__all__ = ("END", "BadTar", "Header", "TarReader", "new_header", "renamed", "split_header")

import os
import re
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterator

END = bytes(1024)
"""What an archive ends with."""

Kind: TypeAlias = Literal["file", "link", "symlink", "char", "block", "directory", "fifo"]
_KINDS: dict[bytes, Kind] = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",  # "contiguous"; nobody does anything special with it
    b"S": "file",  # GNU sparse
    b"1": "link",
    b"2": "symlink",
    b"3": "char",
    b"4": "block",
    b"5": "directory",
    b"6": "fifo",
}
_BLOCK = 512
# A longer name or set of pax records is an attack; Go's limit is the same.
_EXTENSION_LIMIT = 1 << 20
_SIZE_LIMIT = 2**63 - 1
_CHUNK = 1 << 20


class Readable(Protocol):
    """What an archive is read from."""

    def read(self, count: int, /) -> bytes:
        """Return up to *count* bytes; none at the end."""


@runtime_checkable
class Skippable(Protocol):
    """What can also pass over bytes without reading them."""

    def skip(self, count: int, /) -> int:
        """Pass over up to *count* bytes and tell how many there were."""


class BadTar(Exception):
    """The archive is not one that an engine would unpack; the message says why."""


@dataclass(slots=True)
class Header:
    """One entry of an archive.

    Attributes:
        name: its path as it is written.
        kind: what it is.
        link: for links, where to, as it is written.
        size: bytes of content that follow in the archive (of a sparse file, those that are stored).
        blocks: the header as it stands in the archive, with its extension headers.
        start: where in the archive it begins.
    """

    name: bytes
    kind: Kind
    link: bytes
    size: int
    blocks: bytes
    start: int

    @property
    def length(self) -> int:
        """Bytes that header and content take in the archive."""
        return len(self.blocks) + _padded(self.size)


class TarReader:
    """Reads *stream*, an inflated archive; blocking, for a worker thread.

    Iterate to get the headers, up to the archive's end mark. The content of an entry that is not taken by
    `content` before the next one is skipped.

    Raises:
        BadTar: while iterating, if no engine could read it either.
    """

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._offset = 0
        self._left = 0

    def __iter__(self) -> Iterator[Header]:
        while (header := self._next()) is not None:
            self._left = _padded(header.size)
            yield header
            self._pass_over()

    def _pass_over(self) -> None:
        if not isinstance(self._stream, Skippable):
            for _ in self.content():
                pass
        elif self._left:
            if self._stream.skip(self._left) < self._left:
                raise BadTar("it ends within a file")
            self._offset += self._left
            self._left = 0

    def content(self) -> Iterator[bytes]:
        """Give the content of the current entry, with its padding, a piece at a time."""
        while self._left:
            piece = self._stream.read(min(_CHUNK, self._left))
            if not piece:
                raise BadTar("it ends within a file")
            self._left -= len(piece)
            self._offset += len(piece)
            yield piece

    def _next(self) -> Header | None:
        start = self._offset
        extensions = bytearray()
        records: dict[bytes, bytes] = {}
        long: dict[bytes, bytes] = {}
        while (block := self._block()) is not None:
            flag, size = block[156:157], _number(block[124:136])
            if flag == b"g":
                # Engines pass records for all later entries over, and forget those for the next one.
                if extensions:
                    raise BadTar("a global header stands between an entry and its extension headers")
                self._extension(size)
                start = self._offset
                continue
            if flag not in (b"x", b"L", b"K"):
                return self._entry(start, bytes(extensions), block, size, records, long)
            data = self._extension(size)
            extensions += block + data
            if flag == b"x":
                records = _pax(data[:size])
            else:
                long[flag] = _text(data[:size])
            if len(extensions) > 4 * _EXTENSION_LIMIT:
                raise BadTar("an entry has too many extension headers")
        if extensions:
            raise BadTar("it ends after an extension header")
        return None

    def _entry(
        self,
        start: int,
        extensions: bytes,
        block: bytes,
        size: int,
        records: dict[bytes, bytes],
        long: dict[bytes, bytes],
    ) -> Header:
        flag = block[156:157]
        kind = _KINDS.get(flag)
        if kind is None:
            raise BadTar(f"an entry has the unknown type {flag!r}")
        name = long.get(b"L") or records.get(b"path") or _name(block)
        name = records.get(b"GNU.sparse.name") or name
        link = long.get(b"K") or records.get(b"linkpath") or _text(block[157:257])
        if b"size" in records:
            size = _decimal(records[b"size"])
        if flag == b"\0" and name.endswith(b"/"):
            kind = "directory"  # as archives older than POSIX have them
        if kind != "file":
            size = 0  # whatever the header says: only files have content
        sparse = self._sparse_map(block) if flag == b"S" else b""
        return Header(name, kind, link, size, extensions + block + sparse, start)

    def _block(self) -> bytes | None:
        block = self._read(_BLOCK)
        if not block.strip(b"\0"):
            return None
        if len(block) < _BLOCK:
            raise BadTar("it ends within a header")
        # The sum is taken with spaces in its own place; some old programs summed signed bytes.
        told, rest = _octal(block[148:156]), block[:148] + b" " * 8 + block[156:]
        if told != sum(rest) and told != sum(rest) - 256 * sum(byte > 127 for byte in rest):
            raise BadTar("a header has a wrong checksum")
        return block

    def _extension(self, size: int) -> bytes:
        if size > _EXTENSION_LIMIT:
            raise BadTar(f"an extension header has {size} bytes; at most {_EXTENSION_LIMIT} are accepted")
        data = self._read(_padded(size))
        if len(data) < _padded(size):
            raise BadTar("it ends within an extension header")
        return data

    def _sparse_map(self, block: bytes) -> bytes:
        more = b""
        extended = block[482]
        while extended:
            part = self._read(_BLOCK)
            if len(part) < _BLOCK or len(more) > _EXTENSION_LIMIT:
                raise BadTar("the map of a sparse file does not end")
            more += part
            extended = part[504]
        return more

    def _read(self, count: int) -> bytes:
        data = self._stream.read(count)
        while 0 < len(data) < count and (more := self._stream.read(count - len(data))):
            data += more
        self._offset += len(data)
        return data


def renamed(header: Header, name: bytes | None = None, link: bytes | None = None) -> bytes:
    """Return the header's blocks with another name or link target; None keeps what there is."""
    main, records = split_header(header.blocks)
    records[b"path"] = header.name if name is None else name
    if b"GNU.sparse.name" in records:
        records[b"GNU.sparse.name"] = records[b"path"]
    if link is not None or header.link:
        records[b"linkpath"] = header.link if link is None else link
    body = b"".join(_record(key, value) for key, value in records.items())
    extension = tarfile.TarInfo("pax")
    extension.type, extension.size = tarfile.XHDTYPE, len(body)
    return extension.tobuf(tarfile.USTAR_FORMAT) + body + bytes(_padded(len(body)) - len(body)) + main


def new_header(name: bytes, *, directory: bool = False) -> bytes:
    """Return the blocks of an entry of root's: an empty file, or a directory."""
    info = tarfile.TarInfo(os.fsdecode(name))
    info.type, info.mode = (tarfile.DIRTYPE, 0o755) if directory else (tarfile.REGTYPE, 0o644)
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def split_header(blocks: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """Part a header into its main blocks and the pax records before them; long names are left out."""
    records: dict[bytes, bytes] = {}
    offset = 0
    while (flag := blocks[offset + 156 : offset + 157]) in (b"x", b"L", b"K"):
        size = _number(blocks[offset + 124 : offset + 136])
        offset += _BLOCK
        if flag == b"x":
            records = _pax(blocks[offset : offset + size])
        offset += _padded(size)
    return blocks[offset:], records


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _text(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]


def _name(block: bytes) -> bytes:
    name, prefix = _text(block[:100]), _text(block[345:500])
    return prefix + b"/" + name if prefix and block[257:263] == b"ustar\0" else name


def _number(field: bytes) -> int:
    if not field[0] & 0x80:
        return _octal(field)
    # Base 256, GNU's form of large numbers; the second bit is the sign.
    if field[0] & 0x40:
        raise BadTar("a size is negative")
    value = int.from_bytes(field, "big") - (0x80 << 8 * (len(field) - 1))
    if value > _SIZE_LIMIT:
        raise BadTar("a size is too large")
    return value


def _octal(field: bytes) -> int:
    digits = field.strip(b" \0")
    if not re.fullmatch(rb"[0-7]*", digits):
        raise BadTar("a number in a header is not octal")
    return int(digits or b"0", 8)


def _decimal(value: bytes) -> int:
    if not re.fullmatch(rb"\d{1,19}", value) or int(value) > _SIZE_LIMIT:
        raise BadTar("a pax record has a size that is none")
    return int(value)


def _pax(data: bytes) -> dict[bytes, bytes]:
    """Read pax records (POSIX, "pax Extended Header"): ``LENGTH KEY=VALUE`` and a line feed each."""
    records: dict[bytes, bytes] = {}
    offset = 0
    while offset < len(data):
        space = data.find(b" ", offset, offset + 8)
        length = data[offset : max(space, offset)]
        end = offset + int(length) if length.isdigit() else 0
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if end > len(data) or not key or not equals or data[end - 1 : end] != b"\n":
            raise BadTar("a pax record is malformed")
        if key in (b"path", b"linkpath") and b"\0" in value:
            raise BadTar("a path has a zero byte")
        records[key] = value
        offset = end
    return records


def _record(key: bytes, value: bytes) -> bytes:
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))  # its own digits count, and may be one more for that
    return b"%d %s=%s\n" % (length, key, value)
