"""Content digests: `ImageDigest`, checked when made, so that it can name a file or a URL (L1).

Follows "Digests" in the OCI image specification's ``descriptor.md``.
"""

from __future__ import annotations

__all__ = ("ImageDigest",)

import hashlib
import re
from typing import TYPE_CHECKING, Self

from aioruntime.errors import InvalidReference, one_line

if TYPE_CHECKING:
    from hashlib import _Hash

# descriptor.md, "Registered algorithms": the hex part is lower case and of the algorithm's full length.
_HEX_LENGTHS = {"sha256": 64, "sha512": 128}
_PATTERN = re.compile(r"(sha256|sha512):([0-9a-f]+)", re.ASCII)


class ImageDigest(str):
    """A content digest such as ``sha256:4bf5…``; a `str` that was checked when it was made.

    Args:
        value: ``algorithm:hex`` with algorithm ``sha256`` or ``sha512`` and lower-case hex of full length.

    Raises:
        InvalidReference: *value* is anything else.
    """

    __slots__ = ()

    def __new__(cls, value: str) -> Self:  # noqa: D102 - told in the class docstring
        match = _PATTERN.fullmatch(value)
        if match is None or len(match[2]) != _HEX_LENGTHS[match[1]]:
            raise InvalidReference(
                f"not a digest: {one_line(repr(value))}; expected sha256: and 64 lower-case hex digits, "
                "or sha512: and 128"
            )
        return super().__new__(cls, value)

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Return the sha256 digest of *data*."""
        return cls.of_hash(hashlib.sha256(data))

    @classmethod
    def of_hash(cls, hasher: _Hash) -> Self:
        """Return the digest of what a hash object was given."""
        return cls(f"{hasher.name}:{hasher.hexdigest()}")

    @property
    def algorithm(self) -> str:
        """The hash algorithm: ``sha256`` or ``sha512``."""
        return self.partition(":")[0]

    @property
    def hex(self) -> str:
        """The hash in lower-case hex."""
        return self.partition(":")[2]

    def hasher(self) -> _Hash:
        """Return a new hash object of this digest's algorithm."""
        return hashlib.new(self.algorithm)

    def actual(self, data: bytes) -> ImageDigest:
        """Return the digest that *data* has by this digest's algorithm."""
        return self.of_hash(hashlib.new(self.algorithm, data))

    def matches(self, data: bytes) -> bool:
        """Tell whether *data* is the content that this digest names."""
        return self.actual(data) == self
