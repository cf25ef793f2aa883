"""Credentials for registries, and the seam that they come through (L2)."""

from __future__ import annotations

__all__ = ("ANONYMOUS", "Anonymous", "Authorization", "Credentials", "Keychain", "Secret")

from base64 import b64encode
from dataclasses import dataclass
from typing import Protocol


class Secret:
    """A text that shows itself to nobody by accident: `str`, `repr` and formats give ``***``.

    Args:
        value: the text; `reveal` gives it back.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the text, to be sent and then forgotten."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user name and the password or access token that goes with it, or a token in their place.

    Args:
        username: the name.
        password: the password, masked wherever it is shown.
        identity_token: what token servers give registry tokens for, in place of the password; None if there
            is none.
        registry_token: what the registry itself takes, as it is; None if there is none.
    """

    username: str
    password: Secret
    identity_token: Secret | None = None
    registry_token: Secret | None = None

    def basic(self) -> Secret:
        """Return the ``Authorization`` value of the Basic scheme (RFC 7617)."""
        pair = f"{self.username}:{self.password.reveal()}"
        return Secret("Basic " + b64encode(pair.encode()).decode("ascii"))


@dataclass(frozen=True, slots=True)
class Authorization:
    """The value of an ``Authorization`` field.

    Args:
        value: the text.
        anonymous: whether anybody gets the same, since it took no credentials.
    """

    value: Secret
    anonymous: bool


class Keychain(Protocol):
    """Where credentials come from; asked only after a registry has refused an anonymous request."""

    async def credentials(self, host: str, repository: str) -> Credentials | None:
        """Return what to present to *host* for *repository*; None to stay anonymous.

        Args:
            host: host and port of the registry, such as ``registry-1.docker.io``.
            repository: the repository as it stands in request paths, such as ``library/ubuntu``.
        """


class Anonymous:
    """The keychain that has nothing."""

    async def credentials(self, host: str, repository: str) -> Credentials | None:
        """Return None."""
        return None

    def __repr__(self) -> str:
        return "ANONYMOUS"


ANONYMOUS = Anonymous()
