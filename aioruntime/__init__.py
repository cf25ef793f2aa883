"""Pull, keep, assemble and run OCI images from asyncio, on Docker or Podman.

Everything that a user needs is listed in ``__all__``; nothing else is promised.
"""

from __future__ import annotations

__all__ = (
    # Errors
    "AioRuntimeError",
    # Values
    "ComposedImage",
    # Runtimes
    "ContainerRuntime",
    # Credentials
    "Credentials",
    "CredentialsError",
    "DefaultKeychain",
    "DigestMismatch",
    "DockerRuntime",
    "EngineDiskFull",
    "EngineError",
    "EngineUnavailable",
    "GpuProfile",
    "GpuSpec",
    "ImageConfig",
    "ImageDigest",
    "ImageLoadFailed",
    "ImageMetadata",
    "ImageNotFound",
    "ImageRef",
    # The parts they are made of
    "ImageStore",
    "InvalidConfiguration",
    "InvalidManifest",
    "InvalidReference",
    "InvalidSpec",
    "Keychain",
    # Progress
    "LayerProgress",
    "LayerSpec",
    "LayersMissing",
    "Mount",
    "NoopProgress",
    "NotFound",
    "NotStored",
    "OciRef",
    "PathConflict",
    "Platform",
    "PodmanRuntime",
    "ProgressReporter",
    "PruneReport",
    "RateLimited",
    "RegistryClient",
    "RegistryError",
    "RequestRefused",
    "ResolvedImage",
    "RichProgress",
    "RunError",
    "RunOutcome",
    "RunSpec",
    "RuntimeInfo",
    "Secret",
    "SizeMismatch",
    "StaticKeychain",
    "StoreBusy",
    "StoreError",
    "StoreFull",
    "StoreUsage",
    "StoredBlob",
    "StoredImage",
    "StreamTruncated",
    "Unauthorized",
    "connect",
)  # fmt: skip

from aioruntime.errors import (
    AioRuntimeError,
    CredentialsError,
    DigestMismatch,
    EngineDiskFull,
    EngineError,
    EngineUnavailable,
    ImageLoadFailed,
    ImageNotFound,
    InvalidConfiguration,
    InvalidManifest,
    InvalidReference,
    InvalidSpec,
    LayersMissing,
    NotFound,
    NotStored,
    RateLimited,
    RegistryError,
    RequestRefused,
    RunError,
    SizeMismatch,
    StoreBusy,
    StoreError,
    StoreFull,
    StreamTruncated,
    Unauthorized,
)
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.image import (
    ComposedImage,
    ImageMetadata,
    ImageRef,
    LayerSpec,
    PathConflict,
    ResolvedImage,
)
from aioruntime.oci.image_config import ImageConfig
from aioruntime.oci.platform import Platform
from aioruntime.oci.reference import OciRef
from aioruntime.progress import LayerProgress, NoopProgress, ProgressReporter
from aioruntime.registry.client import RegistryClient
from aioruntime.registry.credentials import Credentials, Keychain, Secret
from aioruntime.registry.keychain import DefaultKeychain, StaticKeychain
from aioruntime.rich_progress import RichProgress
from aioruntime.runtime.connect import connect
from aioruntime.runtime.contract import ContainerRuntime
from aioruntime.runtime.docker import DockerRuntime
from aioruntime.runtime.podman import PodmanRuntime
from aioruntime.runtime.spec import (
    GpuProfile,
    GpuSpec,
    Mount,
    RunOutcome,
    RunSpec,
    RuntimeInfo,
)
from aioruntime.store.store import ImageStore
from aioruntime.store.values import PruneReport, StoredBlob, StoredImage, StoreUsage
