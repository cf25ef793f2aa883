"""The exception tree (L0): every error that this library raises on purpose.

::

    AioRuntimeError
    ├── InvalidReference (ValueError)      an image reference or digest that no registry would accept
    ├── InvalidSpec (ValueError)           a value that can't be carried out, such as a mount
    ├── InvalidConfiguration               a configuration file is broken
    ├── InvalidManifest                    a manifest, index or config that breaks its specification
    ├── RegistryError(status, code)        the registry answered with an error, or could not be reached
    │   ├── Unauthorized                   it wants credentials, or refused those it got
    │   ├── CredentialsError               what should have them, a file or a program, is broken
    │   ├── NotFound                       no such repository, tag, manifest or blob
    │   ├── RateLimited(retry_after)       too many requests
    │   └── RequestRefused                 we refused to go where the registry sent us
    ├── StoreError                         the local store could not do what was asked
    │   ├── DigestMismatch                 bytes or a document are not those that the digest names
    │   ├── SizeMismatch                   more or fewer bytes than declared
    │   ├── LayersMissing(digests)         blobs that have to be fetched first
    │   ├── NotStored                      no image of that name in the store
    │   ├── StoreBusy                      somebody else is at it, and waiting was not wanted
    │   └── StoreFull(need, have)          no space left on the store's disk
    ├── EngineError(status, message)       Docker or Podman answered with an error
    │   ├── EngineUnavailable              no engine could be reached
    │   ├── StreamTruncated                a stream ended before its end
    │   ├── ArchiveRefused                 files from a container that may not be unpacked here
    │   ├── ImageLoadFailed                the engine did not take the image
    │   │   └── EngineDiskFull             since its disk has no room
    │   └── ImageNotFound                  the engine has no such image
    └── RunError(container_id)             a container could not be run to its end
        ├── RunTimeout (TimeoutError)      it took longer than it was given
        ├── OutcomeUnknown                 how it ended can't be told any more
        └── GpuUnavailable                 it requires a GPU, and there is none, or none such

Messages name the image, digest, host or path concerned and what can be done. Text that comes from
a registry or an engine passes `one_line` first, so it can neither forge log lines nor flood them.
"""

from __future__ import annotations

__all__ = (
    "AioRuntimeError",
    "ArchiveRefused",
    "CredentialsError",
    "DigestMismatch",
    "EngineDiskFull",
    "EngineError",
    "EngineUnavailable",
    "GpuUnavailable",
    "ImageLoadFailed",
    "ImageNotFound",
    "InvalidConfiguration",
    "InvalidManifest",
    "InvalidReference",
    "InvalidSpec",
    "LayersMissing",
    "NotFound",
    "NotStored",
    "OutcomeUnknown",
    "RateLimited",
    "RegistryError",
    "RequestRefused",
    "RunError",
    "RunTimeout",
    "SizeMismatch",
    "StoreBusy",
    "StoreError",
    "StoreFull",
    "StreamTruncated",
    "Unauthorized",
    "one_line",
)

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_LINE_LIMIT = 300


def one_line(text: str, limit: int = _LINE_LIMIT) -> str:
    """Make foreign text safe to show: one line, no control characters, at most *limit* characters.

    What is too long loses its middle.
    """
    if len(text) > limit * 8:
        text = text[: limit * 4] + text[-limit * 4 :]
    line = " ".join(text.split())
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    if len(escaped) <= limit:
        return escaped
    # What happened often stands at the end, behind whom it went through.
    head = limit // 3
    return f"{escaped[:head]}…{escaped[len(escaped) - (limit - head - 1) :]}"


class AioRuntimeError(Exception):
    """Base of every error that this library raises on purpose."""


class InvalidReference(AioRuntimeError, ValueError):
    """An image reference or digest is not well-formed; nothing was requested."""


class InvalidSpec(AioRuntimeError, ValueError):
    """A value given by the caller can't be carried out; nothing was started."""


class InvalidConfiguration(AioRuntimeError):
    """A configuration file of the user or the system is broken; the message names it, and the place."""


class InvalidManifest(AioRuntimeError):
    """A manifest, index or config breaks its specification, or is of a kind that can't be run."""


class RegistryError(AioRuntimeError):
    """A registry answered with an error, or could not be reached.

    Attributes:
        status: HTTP status of the answer; None if there was no answer.
        code: the registry's own error code, such as ``MANIFEST_UNKNOWN``; None if it gave none.
        temporary: whether the connection failed, broke or stalled in a way that may be over the next time.
    """

    def __init__(
        self, message: str, *, status: int | None = None, code: str | None = None, temporary: bool = False
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.temporary = temporary


class Unauthorized(RegistryError):
    """The registry wants credentials, or refused those that it was given."""


class CredentialsError(RegistryError):
    """A file with credentials can't be read, or a credential helper failed; the message names it.

    Nothing was sent in their stead: no other credentials, and not a request without any.
    """


class NotFound(RegistryError):
    """The registry has no such repository, tag, manifest or blob."""


class RateLimited(RegistryError):
    """The registry asks for fewer requests.

    Attributes:
        retry_after: seconds that the registry asks to wait; None if it did not say.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = 429,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, status=status, code=code)
        self.retry_after = retry_after


class RequestRefused(RegistryError):
    """A redirect, token realm or foreign URL leads where no request may go, or the registry is blocked.

    None was sent.
    """


class StoreError(AioRuntimeError):
    """The local image store could not do what was asked."""


class DigestMismatch(StoreError):
    """Bytes or a document are not those that the digest names; what arrived was thrown away.

    Attributes:
        expected: the digest that was asked for or pinned.
        actual: the digest of what was found.
        position: index of the layer in the image, counted from 0, when layers were compared.
    """

    def __init__(self, message: str, *, expected: str, actual: str, position: int | None = None) -> None:
        super().__init__(message)
        self.expected = expected
        self.actual = actual
        self.position = position


class SizeMismatch(StoreError):
    """A blob has more or fewer bytes than declared.

    Attributes:
        expected: the declared size in bytes.
        actual: the bytes that were seen before giving up.
    """

    def __init__(self, message: str, *, expected: int, actual: int) -> None:
        super().__init__(message)
        self.expected = expected
        self.actual = actual


class LayersMissing(StoreError):
    """Blobs are not in the store; ``ensure_layers`` fetches them.

    Attributes:
        digests: the digests that are missing, in the image's order.
    """

    def __init__(self, message: str, *, digests: Sequence[str]) -> None:
        super().__init__(message)
        self.digests = tuple(digests)


class NotStored(StoreError):
    """The store has no image of that name or digest."""


class StoreBusy(StoreError):
    """Another task or process is at it; the message tells which, as far as that can be seen."""


class StoreFull(StoreError):
    """The disk that holds the store has no room; what was already stored is kept.

    Attributes:
        need: bytes that still have to be written.
        have: bytes free on that disk.
    """

    def __init__(self, message: str, *, need: int, have: int) -> None:
        super().__init__(message)
        self.need = need
        self.have = have


class EngineError(AioRuntimeError):
    """Docker or Podman answered with an error.

    Attributes:
        status: HTTP status of the answer; None if the failure came inside a stream or without an answer.
        message: the engine's own words, made safe to show.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class EngineUnavailable(EngineError):
    """No engine could be reached, or it does not answer; the message lists what was tried."""


class StreamTruncated(EngineError):
    """A stream from the engine was cut before its end; what was received may be incomplete."""


class ArchiveRefused(EngineError):
    """An archive from a container is broken, or would touch files that it has no business with.

    What it would have touched outside the directory that it was unpacked in is as it was.
    """


class ImageLoadFailed(EngineError):
    """The engine did not take the image; nothing of it can be run."""


class EngineDiskFull(ImageLoadFailed):
    """The engine's disk has no room for the image; the next try works when there is some."""


class ImageNotFound(EngineError):
    """The engine has no such image."""


class RunError(AioRuntimeError):
    """A container could not be run to its end; it was removed, unless a note on the error says otherwise.

    Attributes:
        container_id: the engine's ID of the container; None if it was never created.
    """

    def __init__(self, message: str, *, container_id: str | None = None) -> None:
        super().__init__(message)
        self.container_id = container_id


class RunTimeout(RunError, TimeoutError):
    """A container took longer than it was given; it was killed and removed.

    Attributes:
        stdout: what it had written to standard output until then, if that was captured, else empty.
        stderr: likewise for standard error.
    """

    def __init__(
        self, message: str, *, container_id: str | None = None, stdout: bytes = b"", stderr: bytes = b""
    ) -> None:
        super().__init__(message, container_id=container_id)
        self.stdout = stdout
        self.stderr = stderr


class OutcomeUnknown(RunError):
    """How a container ended can't be told any more: somebody or something else removed it."""


class GpuUnavailable(RunError):
    """A GPU is required, and the engine has none, or none such; no container was created."""
