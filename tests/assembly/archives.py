"""Archives made to break out of the place where they are unpacked, or to be read in two ways."""

from __future__ import annotations

import struct
import tarfile
from typing import Any

from tests.assembly.stacks import Entry, entry, packed

DIR, LINK, SYMLINK = tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE
_ETC = [entry("etc", DIR), entry("/etc/passwd", data=b"inside")]
_BELOW = [*_ETC, entry("etc/whitedout", data=b"gone?"), entry("localetc", SYMLINK, linkname="/etc")]


def _link(name: str, target: str) -> Entry:
    return entry(name, LINK, linkname=target)


def _symlink(name: str, target: str) -> Entry:
    return entry(name, SYMLINK, linkname=target)


def _written(name: str = "/localetc/unbroken") -> Entry:
    return entry(name, data=b"unbroken")


# The cases of containerd's TestBreakouts (pkg/archive/tar_test.go), by its names: what lies there, and the
# layer that comes over it.
BREAKOUTS: dict[str, tuple[list[Entry], list[Entry]]] = {
    "SymlinkAbsolute": ([], [entry("etc", DIR), _symlink("localetc", "/etc"), _written()]),
    "SymlinkUpAndOut": (
        [],
        [entry("etc", DIR), entry("dummy", DIR), _symlink("localetc", "/dummy/../etc"), _written()],
    ),
    "SymlinkMultipleAbsolute": (
        [],
        [
            entry("etc", DIR),
            entry("dummy", DIR),
            _symlink("/dummy/etc", "/etc"),
            _symlink("localetc", "/dummy/etc"),
            _written("/dummy/etc/unbroken"),
        ],
    ),
    "SymlinkMultipleRelative": (
        [],
        [
            entry("etc", DIR),
            entry("dummy", DIR),
            _symlink("/dummy/etc", "/etc"),
            _symlink("localetc", "./dummy/etc"),
            _written("/dummy/etc/unbroken"),
        ],
    ),
    "SymlinkEmptyFile": (
        [],
        [
            entry("etc", DIR),
            entry("etc/emptied", data=b"notempty"),
            _symlink("localetc", "/etc"),
            entry("/localetc/emptied"),
        ],
    ),
    "HardlinkRelative": (
        [],
        [
            *_ETC,
            entry("breakouts", DIR),
            _symlink("breakouts/d1", "../../etc"),
            _link("breakouts/mypasswd", "/breakouts/d1/passwd"),
        ],
    ),
    "HardlinkDownAndOut": (
        [],
        [
            *_ETC,
            entry("breakouts", DIR),
            entry("downandout", DIR),
            _symlink("breakouts/d1", "../downandout/../../etc"),
            _link("breakouts/mypasswd", "/breakouts/d1/passwd"),
        ],
    ),
    "HardlinkAbsolute": (
        [],
        [*_ETC, _symlink("localetc", "/etc"), _link("localpasswd", "/localetc/passwd")],
    ),
    "HardlinkRelativeLong": (
        [],
        [*_ETC, _symlink("localetc", "../../../../../../../etc"), _link("localpasswd", "/localetc/passwd")],
    ),
    "HardlinkRelativeUpAndOut": (
        [],
        [*_ETC, _symlink("localetc", "upandout/../../../etc"), _link("localpasswd", "/localetc/passwd")],
    ),
    "HardlinkDirectRelative": ([], [*_ETC, _link("localpasswd", "../../../../../etc/passwd")]),
    "HardlinkDirectAbsolute": ([], [*_ETC, _link("localpasswd", "/etc/passwd")]),
    "SymlinkParentDirectory": ([], [*_ETC, _symlink("..", "/etc/"), _link("localpasswd", "/etc/passwd")]),
    "SymlinkEmptyFilename": ([], [*_ETC, _symlink("", "/etc/"), _link("localpasswd", "/etc/passwd")]),
    "SymlinkParentRelative": (
        [],
        [*_ETC, _symlink("localetc/sub/..", "/etc/"), _link("/localetc/localpasswd", "/etc/passwd")],
    ),
    "SymlinkSlashEnded": (
        [],
        [*_ETC, entry("localetc/", DIR), _link("/localetc/localpasswd", "/etc/passwd")],
    ),
    "SymlinkOverrideDirectory": (
        [*_ETC, entry("localetc", DIR)],
        [_symlink("localetc", "/etc"), _link("/localetc/localpasswd", "/etc/passwd")],
    ),
    "SymlinkOverrideDirectoryRelative": (
        [*_ETC, entry("localetc", DIR)],
        [_symlink("localetc", "../../etc"), _link("/localetc/localpasswd", "/etc/passwd")],
    ),
    "DirectoryOverrideSymlink": (
        [*_ETC, _symlink("localetc", "/etc")],
        [entry("/localetc/", DIR), _link("/localetc/localpasswd", "/etc/passwd")],
    ),
    "DirectoryOverrideSymlinkAndHardlink": (
        [*_ETC, _symlink("localetc", "etc"), _link("/localetc/localpasswd", "/etc/passwd")],
        [entry("/localetc/", DIR), entry("/localetc/localpasswd", data=b"different")],
    ),
    "WhiteoutRootParent": (_ETC, [entry(".wh...")]),
    "WhiteoutParent": (_ETC, [entry("etc/.wh...")]),
    "WhiteoutRoot": (_ETC, [entry(".wh..")]),
    "WhiteoutCurrentDirectory": (_ETC, [entry("etc/.wh..")]),
    "WhiteoutSymlink": (_BELOW, [entry(".wh.localetc")]),
    "WhiteoutSymlinkPath": (_BELOW, [entry("localetc/.wh.whitedout")]),
    "WhiteoutDirectoryName": (_BELOW, [entry(".wh.etc/somefile", data=b"non-empty")]),
    "WhiteoutDeadSymlinkParent": ([*_ETC, _symlink("localetc", "/dne")], [entry("localetc/.wh.etc")]),
    "WhiteoutRelativePath": ([*_ETC, _symlink("localetc", "/dne")], [entry("dne/../.wh.etc")]),
    "HardlinkSymlinkBeforeCreateTarget": (
        [],
        [
            entry("etc", DIR),
            _symlink("localpasswd", "/etc/passwd"),
            _link("localpasswd-dup", "localpasswd"),
            entry("/etc/passwd", data=b"after"),
        ],
    ),
    "HardlinkSymlinkRelative": (
        [],
        [*_ETC, _symlink("passwdlink", "../../../../../etc/passwd"), _link("localpasswd", "/passwdlink")],
    ),
    "HardlinkSymlinkAbsolute": (
        [],
        [*_ETC, _symlink("passwdlink", "/etc/passwd"), _link("localpasswd", "/passwdlink")],
    ),
    "HardlinkSymlinkChmod": (
        [],
        [_symlink("/tmp/outside", "/tmp/perm400"), _link("sketchylink", "/tmp/outside")],
    ),
    # Not among containerd's, whose last is the case above with a target that exists outside: also by a
    # hard link's own name.
    "HardlinkNameUpAndOut": ([], [*_ETC, _symlink("up", "../.."), _link("up/../passwd", "etc/passwd")]),
}


def raw(name: bytes = b"f", kind: bytes = b"0", data: bytes = b"", **fields: bytes) -> bytes:
    """One entry, each field as it is given: mode, uid, size, magic, prefix, link, major, extra."""
    block = bytearray(512)
    link = fields.get("link", b"")
    block[: len(name)] = name
    block[100:108], block[108:116], block[116:124] = fields.get("mode", b"0000644\0"), *[b"0000000\0"] * 2
    block[124:136] = fields.get("size", b"%011o\0" % len(data))
    block[136:148] = b"%011o\0" % 1000
    block[156:157] = kind
    block[157 : 157 + len(link)] = link
    block[257:265] = fields.get("magic", b"ustar\x0000")
    block[329:345] = fields.get("major", b"0000000\0") + b"0000000\0"
    prefix = fields.get("prefix", b"")
    block[345 : 345 + len(prefix)] = prefix
    block[148:156] = b" " * 8
    block[148:156] = fields.get("sum", b"%06o\0 " % sum(block))
    return bytes(block) + data + bytes(-len(data) % 512)


def pax(*records: bytes, kind: bytes = b"x") -> bytes:
    """A pax header of these records, their lengths put before them."""
    body = b""
    for record in records:
        length = len(record) + 2
        length += len(str(length + len(str(length))))
        body += b"%d %s\n" % (length, record)
    return raw(b"pax", kind, body)


def long(name: bytes, kind: bytes = b"L") -> bytes:
    return raw(b"././@LongLink", kind, name + b"\0")


def wide(value: int, size: int = 12) -> bytes:
    return bytes([0x80 if value >= 0 else 0xFF]) + value.to_bytes(size - 1, "big", signed=value < 0)


def sparse(stored: bytes, real: int, *holes: int) -> bytes:
    block = bytearray(raw(b"s", b"S", stored))
    block[257:265] = b"ustar  \0"
    for place, number in enumerate(holes):
        block[386 + 12 * place : 398 + 12 * place] = b"%011o\0" % number
    block[483:495] = struct.pack(">B3xQ", 0x80, real)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    return bytes(block)


def resummed(data: bytes | bytearray) -> bytes:
    """The archive with each block that has ustar's magic made valid again by its checksum."""
    made = bytearray(data)
    for start in range(0, len(made) - 511, 512):
        if made[start + 257 : start + 262] == b"ustar":
            made[start + 148 : start + 156] = b" " * 8
            made[start + 148 : start + 156] = b"%06o\0 " % sum(made[start : start + 512])
    return bytes(made)


END = bytes(1024)
D = raw(b"d/", b"5", mode=b"0000755\0")
ODD: dict[str, bytes] = {
    "name a and ./a": raw(b"a", data=b"1") + raw(b"./a", data=b"2"),
    "name a and a/": raw(b"a/", b"5", mode=b"0000755\0") + raw(b"a", b"5", mode=b"0000700\0"),
    "old directory by its slash": raw(b"old/", b"\0", mode=b"0000755\0") + raw(b"old/f"),
    "file with a slash": raw(b"slash/", b"0", b"x"),
    "name twice, another kind": raw(b"a", data=b"1") + raw(b"a", b"2", link=b"/etc/passwd"),
    "file then directory": raw(b"a", data=b"1") + raw(b"a", b"5", mode=b"0000755\0"),
    "directory then file": D + raw(b"d", data=b"1"),
    "directory with content then file": D + raw(b"d/x") + raw(b"d", data=b"1"),
    "name with dots": D + raw(b"d/./../d/f", data=b"1"),
    "name up": raw(b"../f", data=b"1"),
    "name up behind": D + raw(b"d/../../f", data=b"1"),
    "name absolute": raw(b"/f", data=b"1"),
    "name of many slashes": raw(b"///f", data=b"1"),
    "name empty": raw(b"", data=b"1"),
    "name dot": raw(b".", b"5", mode=b"0000755\0") + raw(b"f"),
    "name dot, a file": raw(b".", data=b"1"),
    "name dot, a symlink": raw(b".", b"2", link=b"/etc") + raw(b"f"),
    "name in bytes": raw(b"\xff\xfe\x01", data=b"1"),
    "name with a line feed": raw(b"a\nb", data=b"1"),
    "name full": raw(b"n" * 100, data=b"1"),
    "prefix": raw(b"f", prefix=b"p" * 100, data=b"1"),
    "prefix without magic": raw(b"f", prefix=b"p", magic=bytes(8), data=b"1"),
    "prefix with GNU's magic": raw(b"f", prefix=b"p", magic=b"ustar  \0", data=b"1"),
    "pax path": pax(b"path=p/q") + raw(b"other", data=b"1"),
    "pax path up": pax(b"path=../../p") + raw(b"other", data=b"1"),
    "pax path empty": pax(b"path=") + raw(b"other", data=b"1"),
    "pax path with a zero": pax(b"path=a\0b") + raw(b"other", data=b"1"),
    "pax path twice": pax(b"path=one", b"path=two") + raw(b"other", data=b"1"),
    "pax linkpath": pax(b"linkpath=to") + raw(b"l", b"2", link=b"other"),
    "pax linkpath up": raw(b"f") + pax(b"linkpath=../../etc/passwd") + raw(b"l", b"1", link=b"f"),
    "pax size": pax(b"size=5") + raw(b"f", data=b"12345"),
    "pax size over another": pax(b"size=1024") + raw(b"f", data=b"x", size=b"%011o\0" % 0) + bytes(512),
    "pax size negative": pax(b"size=-1") + raw(b"f"),
    "pax size too large": pax(b"size=99999999999999999999") + raw(b"f"),
    "pax uid": pax(b"uid=4294967294") + raw(b"f"),
    "pax uid, no number": pax(b"uid=x") + raw(b"f"),
    "pax mtime": pax(b"mtime=1234.5") + raw(b"f"),
    "pax malformed": raw(b"pax", b"x", b"99 path=x\n") + raw(b"f"),
    "pax of nothing": raw(b"pax", b"x", b"") + raw(b"f"),
    "pax for all": pax(b"path=all", kind=b"g") + raw(b"f", data=b"1"),
    "pax and nothing": pax(b"path=x"),
    "pax twice": pax(b"path=one") + pax(b"path=two") + raw(b"f"),
    "pax then long": pax(b"path=one") + long(b"two") + raw(b"f"),
    "long then pax": long(b"two") + pax(b"path=one") + raw(b"f"),
    "long name": long(b"l" * 300) + raw(b"f", data=b"1", magic=b"ustar  \0"),
    "long name twice": long(b"one") + long(b"two") + raw(b"f", magic=b"ustar  \0"),
    "long name up": long(b"../../l") + raw(b"f", magic=b"ustar  \0"),
    "long link": long(b"t" * 300, b"K") + raw(b"l", b"2", magic=b"ustar  \0"),
    "long link to itself": long(b"l", b"K") + raw(b"l", b"1", magic=b"ustar  \0"),
    "size in base 256": raw(b"f", data=b"12345", size=wide(5)),
    "size negative": raw(b"f", size=wide(-1)),
    "size in spaces": raw(b"f", size=b" " * 12),
    "size not octal": raw(b"f", size=b"99999999999\0"),
    "size of a directory": raw(b"d", b"5", size=b"%011o\0" % 512, mode=b"0000755\0") + raw(b"f"),
    "size of a symlink": raw(b"l", b"2", size=b"%011o\0" % 512, link=b"f") + raw(b"f"),
    "checksum wrong": raw(b"f", sum=b"000000\0 "),
    "kind unknown": raw(b"f", b"Z", b"1"),
    "kind contiguous": raw(b"f", b"7", b"1"),
    "device too large": raw(b"dev", b"3", major=wide(2**33, 8)),
    "sparse": sparse(b"12345", 2000, 1000, 5),
    "sparse, holes crossed": sparse(b"12345", 2000, 1000, 5, 500, 5),
    "sparse in pax": pax(
        b"GNU.sparse.major=1", b"GNU.sparse.minor=0", b"GNU.sparse.name=s", b"GNU.sparse.realsize=2000"
    )
    + raw(b"GNUSparseFile.0/s", data=b"1\n1000\n5\n".ljust(512, b"\0") + b"12345"),
    "hard link to a directory": D + raw(b"l", b"1", link=b"d"),
    "hard link before its file": raw(b"l", b"1", link=b"f") + raw(b"f", data=b"1"),
    "hard link to what was replaced": raw(b"f", data=b"1")
    + raw(b"l", b"1", link=b"f")
    + raw(b"f", data=b"2"),
    "symlinks in a ring": raw(b"a", b"2", link=b"b") + raw(b"b", b"2", link=b"a") + raw(b"a/f"),
    "whiteout of what is there": D + raw(b"d/x") + raw(b".wh.d"),
    "whiteout of nothing": raw(b".wh.nothing"),
    "opaque late": D + raw(b"d/x") + raw(b"d/.wh..wh..opq"),
    "aufs' own": raw(b".wh..wh.plnk", b"5", mode=b"0000755\0") + raw(b".wh..wh.aufs"),
    "whiteout as a directory": raw(b".wh.d", b"5", mode=b"0000755\0"),
    "ended early": raw(b"f", data=b"1" * 600)[:-512],
    "no end": raw(b"f", data=b"1"),
    "more behind the end": raw(b"f", data=b"1") + END + raw(b"g", data=b"2"),
    "nothing at all": b"",
}


def breakout(name: str) -> list[bytes]:
    below, above = BREAKOUTS[name]
    return [packed(below), packed(above)]


def odd(name: str) -> list[bytes]:
    tail = b"" if name in ("ended early", "no end", "nothing at all") else END
    return [packed([entry("d", DIR), entry("d/old", data=b"old")]), ODD[name] + tail]


HOSTILE: dict[str, Any] = {**dict.fromkeys(BREAKOUTS, breakout), **dict.fromkeys(ODD, odd)}


def hostile(name: str) -> list[bytes]:
    """The layers of the case of that name: what lies there, and what comes over it."""
    made: list[bytes] = HOSTILE[name](name)
    return made
