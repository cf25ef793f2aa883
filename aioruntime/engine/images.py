"""Images in an engine: look at, load, pull, tag, remove (L2)."""

from __future__ import annotations

__all__ = (
    "EngineImage",
    "inspect_image",
    "load_image",
    "pull_from_here",
    "pull_image",
    "remove_image",
    "tag_image",
)

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from aioruntime.engine.client import libpod_path, path_part
from aioruntime.engine.disk import load_failure
from aioruntime.engine.jsonlines import JsonDecoder, error_in, note_download
from aioruntime.errors import EngineError, EngineUnavailable, ImageNotFound, one_line
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.platform import Platform
from aioruntime.oci.reference import OciRef

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    import aiohttp

    from aioruntime.engine.client import EngineClient

# Removing a large image means deleting its files, one by one.
_REMOVE_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class EngineImage:
    """An image as an engine holds it.

    Attributes:
        id: the engine's image ID: the config's digest, or with the containerd store the manifest's.
        diff_ids: digests of the unpacked layers, base first.
        size: bytes on the engine's disk; None if it does not say.
        labels: the image's labels.
        references: names with tags.
        repo_digests: manifest digests that the engine knows it by, each once.
        platform: what the image is made for.
    """

    id: ImageDigest
    diff_ids: tuple[ImageDigest, ...]
    size: int | None
    labels: Mapping[str, str] = field(hash=False)
    references: tuple[str, ...]
    repo_digests: tuple[ImageDigest, ...]
    platform: Platform


class _Config(msgspec.Struct, rename="pascal"):
    labels: dict[str, str] | None = None


class _RootFs(msgspec.Struct, rename="pascal"):
    layers: list[str] | None = None


class _Image(msgspec.Struct, rename="pascal"):
    id: str
    root_fs: _RootFs | None = msgspec.field(default=None, name="RootFS")
    config: _Config | None = None
    size: int | None = None
    repo_tags: list[str] | None = None
    repo_digests: list[str] | None = None
    os: str = ""
    architecture: str = ""
    variant: str | None = None


async def inspect_image(client: EngineClient, name: str) -> EngineImage:
    """Return what the engine knows of an image.

    Args:
        client: the engine.
        name: a reference, an image ID, or ``repository@digest``.

    Raises:
        ImageNotFound: the engine has no such image.
        EngineError: it could not tell.
    """
    try:
        document = await client.json("GET", f"/images/{path_part(name)}/json")
    except EngineError as exc:
        raise _not_found(exc, name) from exc
    return _read_image(document)


def _read_image(document: Any) -> EngineImage:
    try:
        image = msgspec.convert(document, _Image)
        layers = (image.root_fs.layers if image.root_fs else None) or ()
        return EngineImage(
            id=image_id(image.id),
            diff_ids=tuple(ImageDigest(layer) for layer in layers),
            size=image.size,
            labels=(image.config.labels if image.config else None) or {},
            references=tuple(image.repo_tags or ()),
            repo_digests=digests_in(image.repo_digests),
            # The containerd store says nothing when it holds no variant of the image for its platform.
            platform=Platform(image.os or "linux", image.architecture or "unknown", image.variant or None),
        )
    except (msgspec.ValidationError, ValueError) as exc:
        raise EngineError(f"the engine describes an image in an unknown way: {one_line(str(exc))}") from exc


def image_id(told: str) -> ImageDigest:
    """Read an image ID as an engine tells it."""
    return ImageDigest(told if ":" in told else f"sha256:{told}")  # some Podman versions give the bare hex


def digests_in(names: list[str] | None) -> tuple[ImageDigest, ...]:
    """Return the digests in names such as ``repository@digest``, each once."""
    named = (name.rpartition("@") for name in names or ())
    # Docker lists an image that has lost its last name as <none>@<none>.
    return tuple(dict.fromkeys(ImageDigest(digest) for _, at, digest in named if at and digest != "<none>"))


def _not_found(error: EngineError, name: str) -> EngineError:
    if error.status != 404:
        return error
    return ImageNotFound(f"the engine has no image {one_line(name)}", status=404)


async def load_image(client: EngineClient, archive: AsyncIterator[bytes]) -> None:
    """Send an image archive to the engine and wait until it has taken it.

    Whether the image is then there is for the caller to check: engines report success too early.

    Args:
        client: the engine.
        archive: the pieces of a tar archive; an exception that it raises comes out unchanged.

    Raises:
        EngineDiskFull: the engine has no room for it.
        ImageLoadFailed: the engine refused the archive, or broke off; the message has its words.
        EngineUnavailable: the engine can't be reached.
    """
    sent = 0

    async def counted() -> AsyncGenerator[bytes]:
        nonlocal sent
        async for piece in archive:
            yield piece
            sent += len(piece)

    call = client.stream(
        "POST",
        "/images/load",
        params={"quiet": "1"},
        body=counted(),
        headers={"Content-Type": "application/x-tar"},
    )
    try:
        async with call as response:
            async for _ in _messages(response):
                pass
    except EngineUnavailable:
        raise
    except EngineError as exc:
        raise await load_failure(client, exc, sent) from exc


async def _messages(response: aiohttp.ClientResponse) -> AsyncGenerator[dict[str, Any]]:
    """Give the messages of a progress stream up to its end, or raise the error that one carries."""
    decoder = JsonDecoder()
    async for data in response.content.iter_any():
        for message in decoder.feed(data):
            if (error := error_in(message)) is not None:
                raise EngineError(error)
            yield message
    decoder.finish()


async def pull_image(
    client: EngineClient,
    reference: str,
    report: Callable[[str, int | None, int | None], None] | None = None,
    *,
    platform: Platform | None = None,
) -> None:
    """Let the engine pull an image from its registry, with no credentials of ours.

    Args:
        client: the engine.
        reference: the image; without tag and digest, ``latest`` is meant.
        report: called with a message, and the bytes done and in all as far as the engine tells them.
        platform: the platform to pull for; None for the engine's own.

    Raises:
        InvalidReference: *reference* is not an image reference.
        ImageNotFound: the engine found no such image in the registry.
        EngineError: the pull failed; the message has the engine's words.
        StreamTruncated: the engine broke off.
    """
    image = OciRef.parse(reference)
    # Without a tag, Docker would pull every tag of the repository.
    name = str(image) if image.tag or image.digest else f"{image}:latest"
    params = {"fromImage": name} | ({"platform": str(platform)} if platform else {})
    layers: dict[str, tuple[int, int]] = {}
    try:
        async with client.stream("POST", "/images/create", params=params) as response:
            async for message in _messages(response):
                if report is not None and note_download(message, layers):
                    done, total = (sum(numbers) for numbers in zip(*layers.values(), strict=True))
                    report(f"the engine pulls {name}", done, total)
    except EngineError as exc:
        if exc.status == 404:
            raise ImageNotFound(f"the engine can't pull {name}: {exc}", status=404) from exc
        raise


async def pull_from_here(client: EngineClient, reference: str) -> None:
    """Have an engine pull an image from a registry on its own machine, over plain HTTP.

    Args:
        client: the engine.
        reference: the image, with registry and tag.

    Raises:
        EngineDiskFull: the engine has no room for it.
        ImageLoadFailed: it could not otherwise; the message has its words.
        EngineUnavailable: the engine can't be reached.
    """
    path, params = "/images/create", {"fromImage": reference}
    if libpod := client.capabilities.kind == "podman":
        # Whoever serves the image knows better than Podman whether it is worth another try.
        params = {"reference": reference, "tlsVerify": "false", "quiet": "true", "retry": "0"}
        path = libpod_path("/images/pull")
    try:
        async with client.stream("POST", path, params=params, versioned=not libpod) as response:
            async for _ in _messages(response):
                pass
    except EngineUnavailable:
        raise
    except EngineError as exc:
        raise await load_failure(client, exc, 0) from exc


async def tag_image(client: EngineClient, name: str, reference: str) -> None:
    """Give image *name* the further name *reference*, with ``latest`` as tag if it has none.

    Raises:
        InvalidReference: *reference* is not an image reference.
        ImageNotFound: the engine has no image *name*.
        EngineError: it refused.
    """
    wanted = OciRef.parse(reference)
    params = {"repo": f"{wanted.registry}/{wanted.repository}", "tag": wanted.tag or "latest"}
    try:
        await client.json("POST", f"/images/{path_part(name)}/tag", params=params)
    except EngineError as exc:
        raise _not_found(exc, name) from exc


async def remove_image(client: EngineClient, name: str, force: bool = False) -> None:
    """Remove an image, or only the name *name* if it has others.

    Args:
        client: the engine.
        name: a reference or an image ID.
        force: also remove it if it has several names or stopped containers use it.

    Raises:
        ImageNotFound: the engine has no such image.
        EngineError: it refused, for example since a container uses the image.
    """
    params = {"force": "1" if force else "0"}
    try:
        await client.json("DELETE", f"/images/{path_part(name)}", params=params, timeout=_REMOVE_SECONDS)
    except EngineError as exc:
        raise _not_found(exc, name) from exc
