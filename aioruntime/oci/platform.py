"""Platforms and the choice of a manifest for one (L1).

Follows ``image-index.md`` of the OCI image specification; the fall-backs between variants of processors
are those of containerd's ``platforms`` package.
"""

from __future__ import annotations

__all__ = ("Platform", "matching_platforms")

import platform as _host
from dataclasses import dataclass
from typing import Self

from aioruntime.errors import InvalidSpec, one_line

# 32-bit processors of Arm, as Linux names them.
_ARM = {f"armv{level}l": f"v{level}" for level in (5, 6, 7, 8)}
_ARCHITECTURES = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "i386": "386",
    "i686": "386",
    **dict.fromkeys(_ARM, "arm"),
}
# Variants a machine of the key's variant can run, best first.
_VARIANTS: dict[tuple[str, str], tuple[str | None, ...]] = {
    ("arm", "v8"): ("v8", "v7", "v6", "v5"),
    ("arm", "v7"): ("v7", "v6", "v5"),
    ("arm", "v6"): ("v6", "v5"),
    ("arm64", "v9"): ("v9", "v8"),
    ("amd64", "v4"): ("v4", "v3", "v2", None),
    ("amd64", "v3"): ("v3", "v2", None),
    ("amd64", "v2"): ("v2", None),
}
_DEFAULT_VARIANTS = {"arm": "v7", "arm64": "v8"}


@dataclass(frozen=True, slots=True)
class Platform:
    """An operating system and processor that images are made for.

    Args:
        os: as Go names it, such as ``linux``.
        architecture: as Go names it, such as ``amd64`` or ``arm64``; ``x86_64`` and the like are mapped.
        variant: such as ``v8``; None for the architecture's usual one.

    Raises:
        InvalidSpec: os or architecture is empty or has odd characters.
    """

    os: str = "linux"
    architecture: str = "amd64"
    variant: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "os", self.os.lower())
        architecture = self.architecture.lower()
        object.__setattr__(self, "architecture", _ARCHITECTURES.get(architecture, architecture))
        for value in (self.os, self.architecture, self.variant):
            if value is not None and not value.replace("_", "").replace(".", "").isalnum():
                raise InvalidSpec(
                    f"not a platform: {one_line(repr(value))}; expected something like linux/amd64"
                )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``os/architecture`` or ``os/architecture/variant``.

        Raises:
            InvalidSpec: *text* has another form.
        """
        parts = text.split("/")
        if len(parts) not in (2, 3):
            raise InvalidSpec(
                f"not a platform: {one_line(repr(text))}; expected os/architecture, such as linux/arm64/v8"
            )
        return cls(*parts)

    @classmethod
    def host(cls) -> Self:
        """Return the platform of Linux containers on this machine's processor."""
        machine = _host.machine()
        return cls("linux", machine, _ARM.get(machine))

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def matching_platforms(wanted: Platform) -> tuple[Platform, ...]:
    """List the platforms that a *wanted* machine can run, best first, each with its variant spelt out."""
    variant = with_default_variant(wanted).variant
    variants: tuple[str | None, ...] = (variant,)
    if variant is not None:
        variants = _VARIANTS.get((wanted.architecture, variant), (variant,))
    found = [Platform(wanted.os, wanted.architecture, v) for v in variants]
    if wanted.architecture == "arm64":
        found += [Platform(wanted.os, "arm", v) for v in _VARIANTS["arm", "v8"]]
    return tuple(found)


def with_default_variant(platform: Platform) -> Platform:
    """Spell out the variant that *platform* means when it names none; ``amd64/v1`` is ``amd64``."""
    if (platform.architecture, platform.variant) == ("amd64", "v1"):
        return Platform(platform.os, platform.architecture)
    default = _DEFAULT_VARIANTS.get(platform.architecture)
    return Platform(platform.os, platform.architecture, platform.variant or default)
