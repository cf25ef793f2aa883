"""How the containers of an image start, as the maker of the image says: `ImageConfig` (L1)."""

from __future__ import annotations

__all__ = ("ImageConfig",)

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

from aioruntime.errors import InvalidSpec
from aioruntime.oci.checks import items, mapping
from aioruntime.oci.faults import command_faults, env_faults, label_faults, user_faults, working_dir

if TYPE_CHECKING:
    import os


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image that is composed says of its containers; what is not given is its images' own.

    Args:
        entrypoint: the program, and arguments that always come first; empty for none. As in a Dockerfile,
            to give it drops the command that images have.
        command: the arguments, or program and arguments if there is no entry point; empty for none.
        env: environment variables, added to those of the images.
        working_dir: absolute path in the container.
        user: ``name``, ``uid`` or ``uid:gid``.
        labels: added to those of the images.

    Raises:
        InvalidSpec: a value can't be carried out; the message tells every fault.
    """

    entrypoint: tuple[str, ...] | None = None
    command: tuple[str, ...] | None = None
    env: Mapping[str, str] = field(default_factory=dict, hash=False)
    working_dir: PurePosixPath | None = None
    user: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)

    if TYPE_CHECKING:

        def __init__(
            self,
            entrypoint: Iterable[str] | None = None,
            command: Iterable[str] | None = None,
            env: Mapping[str, str] = ...,
            working_dir: str | os.PathLike[str] | None = None,
            user: str | None = None,
            labels: Mapping[str, str] = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        faults: list[str] = []
        for name in ("entrypoint", "command"):
            arguments = getattr(self, name)
            if arguments is not None:
                if not isinstance(arguments, str):
                    arguments = items(name, arguments, faults)
                    object.__setattr__(self, name, arguments)
                faults += command_faults(arguments, name)
        for name in ("env", "labels"):
            object.__setattr__(self, name, mapping(name, getattr(self, name), faults))
        faults += [*env_faults(self.env), *label_faults(self.labels)]
        if self.working_dir is not None:
            object.__setattr__(self, "working_dir", working_dir(self.working_dir, faults))
        if self.user is not None:
            faults += user_faults(self.user)
        if faults:
            raise InvalidSpec("can't make an image's config: " + "; ".join(faults))

    def __reduce__(self) -> tuple[type[Self], tuple[object, ...]]:
        # A read-only view can be neither pickled nor copied; what it shows can.
        values = (getattr(self, each.name) for each in fields(self))
        return type(self), tuple(dict(v) if isinstance(v, MappingProxyType) else v for v in values)
