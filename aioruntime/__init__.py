"""Pull, keep, assemble and run OCI images from asyncio, on Docker or Podman.

Everything that a user needs is listed in ``__all__``; nothing else is promised.
"""

from __future__ import annotations

__all__ = (
    # Errors
    "AioRuntimeError",
    "ArchiveRefused",
    # Values
    "ComposedImage",
    # Runtimes
    "Container",
    "ContainerRuntime",
    # Credentials
    "Credentials",
    "CredentialsError",
    "DefaultKeychain",
    "Device",
    "DigestMismatch",
    "DockerRuntime",
    "EngineDiskFull",
    "EngineError",
    "EngineUnavailable",
    "Event",
    "GpuProfile",
    "GpuSpec",
    "GpuUnavailable",
    "HealthCheck",
    "ImageConfig",
    "ImageDigest",
    "ImageLoadFailed",
    "ImageMetadata",
    "ImageMount",
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
    "Line",
    "Mount",
    "Network",
    "NetworkAttachment",
    "Networks",
    "NoopProgress",
    "NotFound",
    "NotStored",
    "OciRef",
    "OutcomeUnknown",
    "Output",
    "PathConflict",
    "Platform",
    "PodmanRuntime",
    "Port",
    "Process",
    "ProgressReporter",
    "PruneReport",
    "Pruned",
    "RateLimited",
    "ReapReport",
    "RegistryClient",
    "RegistryError",
    "RequestRefused",
    "ResolvedImage",
    "RestartPolicy",
    "RichProgress",
    "RunError",
    "RunOutcome",
    "RunResult",
    "RunSpec",
    "RunTimeout",
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
    "Subnet",
    "TmpfsMount",
    "Ulimit",
    "Unauthorized",
    "Volume",
    "VolumeMount",
    "Volumes",
    "connect",
)  # fmt: skip

from aioruntime.engine.event_history import Event
from aioruntime.engine.frames import Output
from aioruntime.engine.network_values import Network, Subnet
from aioruntime.engine.networks import Networks
from aioruntime.engine.removal import Pruned
from aioruntime.engine.volumes import Volume, Volumes
from aioruntime.errors import (
    AioRuntimeError,
    ArchiveRefused,
    CredentialsError,
    DigestMismatch,
    EngineDiskFull,
    EngineError,
    EngineUnavailable,
    GpuUnavailable,
    ImageLoadFailed,
    ImageNotFound,
    InvalidConfiguration,
    InvalidManifest,
    InvalidReference,
    InvalidSpec,
    LayersMissing,
    NotFound,
    NotStored,
    OutcomeUnknown,
    RateLimited,
    RegistryError,
    RequestRefused,
    RunError,
    RunTimeout,
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
from aioruntime.runtime.container import Container
from aioruntime.runtime.contract import ContainerRuntime
from aioruntime.runtime.docker import DockerRuntime
from aioruntime.runtime.gpu_spec import GpuProfile, GpuSpec
from aioruntime.runtime.lifecycle import HealthCheck, RestartPolicy
from aioruntime.runtime.lines import Line
from aioruntime.runtime.mounts import ImageMount, Mount, TmpfsMount, VolumeMount
from aioruntime.runtime.networking import NetworkAttachment, Port
from aioruntime.runtime.podman import PodmanRuntime
from aioruntime.runtime.process import Process
from aioruntime.runtime.reap import ReapReport
from aioruntime.runtime.resources import Device, Ulimit
from aioruntime.runtime.run import RunResult
from aioruntime.runtime.spec import RunOutcome, RunSpec, RuntimeInfo
from aioruntime.store.store import ImageStore
from aioruntime.store.values import PruneReport, StoredBlob, StoredImage, StoreUsage
