"""What a container sees beside its image's files: directories, volumes, memory, other images (L4)."""

from __future__ import annotations

__all__ = ("AnyMount", "ImageMount", "Mount", "TmpfsMount", "VolumeMount")

import os
from dataclasses import dataclass
from pathlib import PurePath, PurePosixPath
from typing import TYPE_CHECKING, TypeAlias

from aioruntime.errors import InvalidReference, InvalidSpec, one_line
from aioruntime.oci.checks import absolute_path, is_name, is_whole
from aioruntime.oci.reference import OciRef
from aioruntime.runtime.resources import byte_count

_Path: TypeAlias = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory or file of the engine's host, seen in the container.

    Args:
        host_path: absolute path on the machine that the engine runs on; it has to exist.
        container_path: absolute path in the container.
        read_only: whether the container can only read it.

    Raises:
        InvalidSpec: a path is not absolute, or has a NUL character.
    """

    host_path: PurePath
    container_path: PurePosixPath
    read_only: bool = False

    if TYPE_CHECKING:

        def __init__(self, host_path: _Path, container_path: _Path, read_only: bool = False) -> None: ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "host_path", absolute_path(PurePath, "mount: host_path", self.host_path))
        object.__setattr__(self, "container_path", _container_path(self.container_path))
        _check_read_only(self.read_only)


@dataclass(frozen=True, slots=True)
class VolumeMount:
    """A volume that the engine keeps, seen in the container.

    Args:
        volume: its name; the engine makes it if there is none.
        container_path: absolute path in the container.
        read_only: whether the container can only read it.

    Raises:
        InvalidSpec: the name is not one, or the path is not absolute.
    """

    volume: str
    container_path: PurePosixPath
    read_only: bool = False

    if TYPE_CHECKING:

        def __init__(self, volume: str, container_path: _Path, read_only: bool = False) -> None: ...

    def __post_init__(self) -> None:
        if not is_name(self.volume):
            told = one_line(repr(self.volume))
            raise InvalidSpec(f"mount: volume {told} is not a volume's name; use Mount for a directory")
        object.__setattr__(self, "container_path", _container_path(self.container_path))
        _check_read_only(self.read_only)


@dataclass(frozen=True, slots=True)
class TmpfsMount:
    """A file system in the memory of the engine's machine, gone with the container.

    Args:
        container_path: absolute path in the container.
        size: most bytes that it can hold, or such as ``64m``; None for the kernel's half of all memory.
        mode: permissions of its root, such as ``0o700``; None for everybody's, as ``/tmp`` has.

    Raises:
        InvalidSpec: a value is not of its kind.
    """

    container_path: PurePosixPath
    size: int | None = None
    mode: int | None = None

    if TYPE_CHECKING:

        def __init__(
            self, container_path: _Path, size: int | str | None = None, mode: int | None = None
        ) -> None: ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "container_path", _container_path(self.container_path))
        if self.size is not None:
            object.__setattr__(self, "size", byte_count(self.size, "mount: size"))
        if self.mode is not None and not is_whole(self.mode, 0, 0o7777):
            raise InvalidSpec(f"mount: mode {one_line(repr(self.mode))} is none; give such as 0o700")


@dataclass(frozen=True, slots=True)
class ImageMount:
    """The files of another image that the engine holds, seen in the container; it can't change them.

    Needs Podman, or Docker 28 (API 1.48).

    Args:
        image: which; a string is parsed as a reference. The engine has to hold it under that name.
        container_path: absolute path in the container.

    Raises:
        InvalidSpec: the image is not a reference, or the path is not absolute.
    """

    image: OciRef
    container_path: PurePosixPath

    if TYPE_CHECKING:

        def __init__(self, image: OciRef | str, container_path: _Path) -> None: ...

    def __post_init__(self) -> None:
        if not isinstance(self.image, OciRef):
            try:
                object.__setattr__(self, "image", OciRef.parse(self.image))
            except InvalidReference as exc:
                raise InvalidSpec(f"mount: {exc}") from exc
        object.__setattr__(self, "container_path", _container_path(self.container_path))


AnyMount: TypeAlias = Mount | VolumeMount | TmpfsMount | ImageMount


def _container_path(value: _Path) -> PurePosixPath:
    path = absolute_path(PurePosixPath, "mount: container_path", value)
    if os.path.normpath(path).strip("/") == "":
        raise InvalidSpec(f"mount: container_path {one_line(repr(str(path)))} hides the image's own files")
    return path


def _check_read_only(value: object) -> None:
    if not isinstance(value, bool):
        raise InvalidSpec(f"mount: read_only {one_line(repr(value))} is not True or False")
