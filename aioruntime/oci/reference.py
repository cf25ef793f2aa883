"""Image references: `OciRef` and the grammar that it is parsed by (L1).

The grammar is the one in ``reference/regexp.go`` of the distribution project, as named by the OCI
distribution specification.
"""

from __future__ import annotations

__all__ = ("OciRef", "image_named")

import re
from dataclasses import dataclass
from typing import Self

from aioruntime.errors import InvalidReference, one_line
from aioruntime.oci.digest import ImageDigest

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_DOMAIN_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_REGISTRY = re.compile(
    rf"(?:{_DOMAIN_LABEL}(?:\.{_DOMAIN_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]{{1,5}})?", re.ASCII
)
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
# Upper-case hex passes the reference grammar; `OciRef.pinned` refuses it, as it does a short one.
_DIGEST = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]+", re.ASCII)
_NAME_LIMIT = 255
_SCHEMES = ("docker://", "oci://")
_DOCKER_HUB = ("docker.io", "index.docker.io")


@dataclass(frozen=True, slots=True)
class OciRef:
    """The name of an image in a registry, as the user wrote it.

    ``ubuntu:22.04`` keeps repository ``ubuntu``; `api_host` and `api_repository` tell where it is
    requested. Without tag and digest, ``latest`` is meant.

    Args:
        registry: host and optional port, such as ``ghcr.io`` or ``127.0.0.1:5000``.
        repository: path within the registry, such as ``org/samtools``.
        tag: such as ``1.21``; None if none was given.
        digest: such as ``sha256:4bf5…``; None if none was given. Its hex may be too short here; it is
            refused by `pinned` the moment that it is used.

    Raises:
        InvalidReference: a part is not what the reference grammar allows; the message names it.
    """

    registry: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    def __post_init__(self) -> None:
        self._check("registry", self.registry, _REGISTRY)
        self._check("repository", self.repository, _REPOSITORY)
        if self.tag is not None:
            self._check("tag", self.tag, _TAG)
        if self.digest is not None:
            self._check("digest", self.digest, _DIGEST)
        if len(self.registry) + 1 + len(self.repository) > _NAME_LIMIT:
            raise InvalidReference(
                f"image name is longer than {_NAME_LIMIT} characters: {one_line(self.repository)}"
            )

    def _check(self, part: str, value: str, pattern: re.Pattern[str]) -> None:
        if pattern.fullmatch(value) is None:
            hint = ""
            if part == "repository" and value != value.lower():
                hint = "; repository names are lower case"
            elif part == "registry" and value in ("http:", "https:"):
                hint = f"; leave {value}// out"
            raise InvalidReference(f"invalid {part} {one_line(repr(value))} in an image reference{hint}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a reference such as ``ghcr.io/org/samtools:1.21@sha256:4bf5…``.

        Args:
            text: the reference; a ``docker://`` or ``oci://`` prefix is dropped.

        Returns:
            The reference, with ``docker.io`` as registry if none was given.

        Raises:
            InvalidReference: *text* is not a reference; the message says which part is wrong.
        """
        if not isinstance(text, str):
            raise InvalidReference(f"image reference {one_line(repr(text))} is not text")
        rest = next((text[len(s) :] for s in _SCHEMES if text.startswith(s)), text)
        name, at, digest = rest.partition("@")
        head, slash, last = name.rpartition("/")
        # Only the last path component can carry a tag: a colon before it belongs to a port.
        last, colon, tag = last.partition(":")
        registry, repository = _split_registry(head + slash + last)
        if not repository:
            raise InvalidReference(f"image reference {one_line(repr(text))} has no repository name")
        return cls(registry, repository, tag if colon else None, digest if at else None)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        digest = f"@{self.digest}" if self.digest is not None else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"

    def docker_arg(self) -> str:
        """Return the reference as the ``docker`` program takes it: without ``docker.io/``."""
        short = str(self).removeprefix("docker.io/")
        return short if OciRef.parse(short) == self else str(self)

    @property
    def is_docker_hub(self) -> bool:
        """Whether the image lives on Docker Hub."""
        return self.registry in _DOCKER_HUB

    @property
    def api_host(self) -> str:
        """Host and port that serve this image's requests."""
        return "registry-1.docker.io" if self.is_docker_hub else self.registry

    @property
    def api_repository(self) -> str:
        """Repository as it stands in request paths (Docker Hub's official images are under ``library/``)."""
        if self.is_docker_hub and "/" not in self.repository:
            return f"library/{self.repository}"
        return self.repository

    @property
    def pinned(self) -> ImageDigest | None:
        """The digest, checked for use; None if there is none.

        Raises:
            InvalidReference: the digest is shortened or of an algorithm that can't be verified.
        """
        if self.digest is None:
            return None
        try:
            return ImageDigest(self.digest)
        except InvalidReference as exc:
            raise InvalidReference(f"{self}: the digest can't be fetched: {exc}") from exc

    @property
    def selector(self) -> str:
        """What is asked of the registry: the digest, else the tag, else ``latest``."""
        return self.pinned or self.tag or "latest"

    @property
    def full_name(self) -> str:
        """Registry and repository in full, without tag and digest: ``docker.io/library/ubuntu``."""
        registry = "docker.io" if self.is_docker_hub else self.registry
        return f"{registry}/{self.api_repository}"

    @property
    def canonical(self) -> str:
        """The one full form of this name, default tag filled in: ``docker.io/library/ubuntu:latest``.

        A digest takes the place of the tag, since it is what decides.
        """
        pinned = self.pinned
        return f"{self.full_name}@{pinned}" if pinned else f"{self.full_name}:{self.tag or 'latest'}"


def image_named(text: str) -> OciRef | ImageDigest:
    """Read how a user names an image: by a reference, or by a digest or an engine's ID alone.

    Raises:
        InvalidReference: *text* is neither.
    """
    return ImageDigest(text) if text.startswith(("sha256:", "sha512:")) else OciRef.parse(text)


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost" or first != first.lower()):
        return first, rest
    return "docker.io", name
