"""Where the requests for an image go (L2, pure)."""

from __future__ import annotations

__all__ = ("Endpoint",)

from dataclasses import dataclass

from yarl import URL

from aioruntime.registry.origins import host_of


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A repository at one registry.

    Args:
        root: the registry's root URL.
        repository: the repository as it stands in request paths, such as ``library/ubuntu``.
    """

    root: URL
    repository: str

    @property
    def host(self) -> str:
        """The registry's host and port."""
        return host_of(self.root)

    def url(self, path: str) -> URL:
        """Return the URL of *path* within the repository, such as ``manifests/latest``."""
        return self.root.with_path(f"/v2/{self.repository}/{path}", encoded=True)
