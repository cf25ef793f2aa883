"""Before a container is created: find or pull its image, and refuse what this engine can't do (L4)."""

from __future__ import annotations

__all__ = ("prepare", "refuse_to_run", "refuse_to_start")

from typing import TYPE_CHECKING

from aioruntime.errors import ImageNotFound, InvalidSpec
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.platform import matching_platforms, with_default_variant
from aioruntime.oci.reference import OciRef
from aioruntime.runtime.docker_body import docker_body
from aioruntime.runtime.podman_body import podman_body
from aioruntime.runtime.spec import RunSpec
from aioruntime.runtime.start import Creation
from aioruntime.runtime.supported import check_supported

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aioruntime.engine.images import EngineImage
    from aioruntime.oci.image import ImageRef
    from aioruntime.oci.platform import Platform
    from aioruntime.runtime.gpu import GpuRequest
    from aioruntime.runtime.session import Session


async def prepare(
    session: Session,
    spec: RunSpec,
    gpu: GpuRequest | None,
    pull: Callable[[OciRef, Platform | None], Awaitable[object]],
) -> Creation:
    """Find out what the container of *spec* is to be made from.

    Args:
        session: engine and store.
        spec: what to run.
        gpu: the GPU to ask for; None for none.
        pull: makes an image runnable, for a platform.

    Raises:
        InvalidSpec: the engine can't do what *spec* asks for.
        ImageNotFound: the engine does not have the image, and it was not to be pulled.
        AioRuntimeError: it could not be pulled.
    """
    client = session.client
    check_supported(spec, client.capabilities)
    image = await _image(session, spec, pull)
    libpod = client.capabilities.kind == "podman"
    body = podman_body if libpod else docker_body
    return Creation(spec, image.id, lambda labels: body(spec, image.id, labels, gpu), libpod)


async def _image(
    session: Session, spec: RunSpec, pull: Callable[[OciRef, Platform | None], Awaitable[object]]
) -> EngineImage:
    if isinstance(spec.image, ImageDigest):  # which names nothing to pull: the specification has pull="never"
        return await _held(session, spec)
    reference = spec.image if isinstance(spec.image, OciRef) else _by_digest(spec.image)
    if spec.pull == "always":
        await pull(reference, spec.platform)
    try:
        return await _held(session, spec)
    except ImageNotFound:
        if spec.pull != "missing":
            raise
    await pull(reference, spec.platform)
    return await _held(session, spec)


async def _held(session: Session, spec: RunSpec) -> EngineImage:
    held, _ = await session.locator.locate(spec.image)
    wanted = spec.platform
    if wanted and with_default_variant(held.platform) not in matching_platforms(wanted):
        raise ImageNotFound(
            f"the engine has {spec.image} for {held.platform}, not for {wanted}; "
            "pull it for that: RunSpec(pull='missing')",
            status=404,
        )
    return held


def _by_digest(image: ImageRef) -> OciRef:
    name = OciRef.parse(image.reference)
    return OciRef.parse(f"{name.full_name}@{image.digest}")


def _check_kind(spec: object) -> None:
    if not isinstance(spec, RunSpec):
        kind = type(spec).__name__  # what it has, may be secret
        raise InvalidSpec(f"a {kind} can't be run; give a RunSpec, such as RunSpec(image, command)")


def refuse_to_run(spec: RunSpec) -> None:
    """Refuse what a container that is run to its end can't have.

    Raises:
        InvalidSpec: it would never end, or nobody could write its input.
    """
    _check_kind(spec)
    if spec.stdin is True:
        raise InvalidSpec(
            f"can't run {spec.image}: stdin is True; give the bytes, or use `start` to write them"
        )
    if spec.restart is not None and spec.restart.name != "no":
        raise InvalidSpec(f"can't run {spec.image}: restart is for containers that stay; use `start`")


def refuse_to_start(spec: RunSpec, *, detach: bool) -> None:
    """Refuse what a container that nobody holds can't have.

    Raises:
        InvalidSpec: nobody would end it in time, or send its input.
    """
    _check_kind(spec)
    given = {"timeout": spec.timeout is not None, "stdin": spec.stdin is not False}
    faults = [name for name, is_given in given.items() if is_given]
    if detach and faults:
        raise InvalidSpec(f"can't detach {spec.image}: {' and '.join(faults)} need somebody who holds it")
