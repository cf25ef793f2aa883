"""`RegistryClient`: what references name, the blobs of images, and pushing them (L2).

Follows "Pull" and "Push" of the OCI distribution specification.
"""

from __future__ import annotations

__all__ = ("RegistryClient",)

from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Self

from aioruntime.errors import InvalidSpec, NotFound, RegistryError
from aioruntime.oci.digest import ImageDigest
from aioruntime.progress import NoopProgress, finishing
from aioruntime.registry.auth import Authenticator
from aioruntime.registry.blob_requests import BlobRequests
from aioruntime.registry.blobs import BlobStream
from aioruntime.registry.certificates import Certificates
from aioruntime.registry.clock import SYSTEM_CLOCK
from aioruntime.registry.endpoints import Endpoint
from aioruntime.registry.http import Http
from aioruntime.registry.keychain import DefaultKeychain, StaticKeychain
from aioruntime.registry.mirrors import Place
from aioruntime.registry.origins import Rules
from aioruntime.registry.pace import Pace
from aioruntime.registry.places import Places
from aioruntime.registry.push import push_image
from aioruntime.registry.requests import Requests
from aioruntime.registry.resolve import fetch_document, has_blob, has_manifest, resolve_image
from aioruntime.registry.retry import Retry
from aioruntime.registry.tags import list_tags
from aioruntime.registry.uploads import Destination
from aioruntime.registry.verify import check_digest

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Mapping, Sequence

    from aioruntime.oci.image import LayerSpec, ResolvedImage
    from aioruntime.oci.platform import Platform
    from aioruntime.oci.reference import OciRef
    from aioruntime.progress import ProgressReporter
    from aioruntime.registry.clock import Clock
    from aioruntime.registry.credentials import Credentials, Keychain
    from aioruntime.registry.push import BlobReader
    from aioruntime.registry.served import Document, KnownDocuments

_URLS_TRIED = 8
# Stall timeouts within which a blob has to come to something.
_STALLS = 5


class RegistryClient:
    """Reads images from registries, and pushes them there; an async context manager.

    Args:
        credentials: what to present, by registry (``ghcr.io``, ``127.0.0.1:5000``, ``docker.io`` for Docker
            Hub) or by what repositories begin with (``ghcr.io/org``); the most specific entry counts.
        keychain: asked where *credentials* has no entry; if not given, what ``docker login`` and the like
            have left on this machine (`DefaultKeychain`). Neither is used before a registry has refused an
            anonymous request.
        plain_http: hosts, with or without port, that may be spoken to without TLS, besides this machine's
            own loopback (``127.0.0.0/8``, ``::1``, ``localhost``), which is unless TLS is set up for it: by
            a ``certs.d`` directory, *ssl_context* or *insecure*. A host without port
            stands for all its ports. Redirects and token servers at internal addresses are refused unless
            they are at the registry's own host or named here.
        trusted_realms: hosts of token servers, with or without port, that may have the credentials for any
            registry. The registry's own host, those of names above and below it, and the token servers of
            Docker Hub and a few other known registries may in any case; others get anonymous requests alone.
        ssl_context: how to speak TLS to every host, this machine's included, in place of the system's
            authorities and of the ``certs.d`` directories. A client's certificate in it is shown to each host
            that asks; one in ``certs.d/HOST`` to that host alone.
        insecure: hosts, with or without port, whose TLS certificates are not verified: anybody on the way
            can read and change what passes, credentials included.
        connections_per_host: connections to one host at most; further requests wait.
        connect_timeout: seconds for connecting to a host.
        stall_timeout: seconds without a byte after which a host is given up. There is no limit to the
            time that a whole blob takes, as long as it does not merely drip.
        retries: how often in a row to try again what may go better: connections that fail, break or stall,
            and the answers 408, 429 and 5xx. Each byte of a blob that comes begins a new row.
        retry_budget: seconds after the first failure of a row in which a last try may begin. What a registry
            asks to wait (``Retry-After``) is waited for within that, at most 60 seconds.
        user_agent: what to call ourselves.
        clock: tells the time, and waits.
        mirrors: who is asked before a registry: by its name, such as ``docker.io``, or a longer prefix of
            image names, the hosts, with or without a prefix for the rest of the name, in order. With None,
            containers' ``registries.conf`` says so: the file that ``$CONTAINERS_REGISTRIES_CONF`` names, or
            those of the user and the system. Credentials are looked up by the mirror's own name.
    """

    def __init__(
        self,
        *,
        credentials: Mapping[str, Credentials] | None = None,
        keychain: Keychain | None = None,
        plain_http: Collection[str] = (),
        trusted_realms: Collection[str] = (),
        ssl_context: ssl.SSLContext | None = None,
        insecure: Collection[str] = (),
        connections_per_host: int = 16,
        connect_timeout: float = 10.0,
        stall_timeout: float = 60.0,
        retries: int = 5,
        retry_budget: float = 120.0,
        user_agent: str = "aioruntime",
        clock: Clock = SYSTEM_CLOCK,
        mirrors: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        certificates = Certificates(ssl_context, insecure)
        self._rules = Rules(plain_http, trusted_realms, certificates.has_tls)
        self._http = Http(
            self._rules,
            certificates,
            Pace(connections_per_host, retry_budget, clock),
            connections_per_host=connections_per_host,
            connect_timeout=connect_timeout,
            stall_timeout=stall_timeout,
            user_agent=user_agent,
        )
        self._retry = Retry(retries, retry_budget, clock)
        self._patience = stall_timeout * _STALLS
        chosen = StaticKeychain(credentials or {}, keychain or DefaultKeychain(clock=clock))
        self._requests = Requests(self._http, Authenticator(self._http, chosen, clock))
        self._places = Places(mirrors, self._rules, self._retry)

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.__aexit__()

    async def resolve(
        self, image: OciRef, platform: Platform | None = None, *, documents: KnownDocuments | None = None
    ) -> ResolvedImage:
        """Find out what *image* names at this moment; nothing but small documents is downloaded.

        Args:
            image: by tag, digest or both; then the digest decides.
            platform: what to choose from an image for several platforms; that of this machine if not given.
            documents: asked before the registry is, for what is named by digest.

        Returns:
            The image with its manifest, config and layers, every document checked against its digest.

        Raises:
            InvalidReference: the digest is shortened, or of an algorithm that can't be verified.
            InvalidManifest: a document is broken or ambiguous, or there is no image for the platform.
            DigestMismatch: a document is not the one that its digest names.
            SizeMismatch: a document has another size than the index or manifest says.
            RegistryError: the registry answered with an error or could not be reached; see its subclasses.
                What its mirrors said is in a note on the error.
            InvalidConfiguration: ``registries.conf`` is broken.
        """
        return await resolve_image(self._requests, self._places, image, platform, documents)

    async def document(self, image: OciRef, selector: str, *, size: int | None = None) -> Document:
        """Fetch a manifest or an index, without decoding it.

        Args:
            image: whose repository is asked.
            selector: a tag, or a digest, which the document is checked against.
            size: bytes that it has to have; None if nobody has said.

        Raises:
            DigestMismatch: it is not what the digest names, or not what the registry says that it is.
            SizeMismatch: it has another size.
            RegistryError: as `resolve`; also if it is larger than 4 MiB.
        """
        return await fetch_document(self._requests, self._places, image, selector, size)

    @asynccontextmanager
    async def blob(
        self,
        image: OciRef | None,
        layer: LayerSpec,
        *,
        offset: int = 0,
        length: int | None = None,
        avoiding: Collection[Place] = (),
    ) -> AsyncIterator[BlobStream]:
        """Open a layer's bytes as they are served; `BlobStream` tells what can happen on the way.

        A server that does not answer a range, or answers another one than asked for, is asked for all of
        the blob: look at the stream's ``offset`` and ``end``. Mirrors are asked first, and the layer's
        ``urls`` last.

        Args:
            image: whose repository has the layer. Its credentials go nowhere else: not to a ``blob_url``
                at another origin. None if the layer has a ``blob_url``, which is then anybody's.
            layer: the layer, with its declared size.
            offset: bytes that are already here, less than the layer's size.
            length: bytes that are wanted from there on; all the rest if not given.
            avoiding: the ``place`` of streams of this layer that were not what its digest names.

        Raises:
            InvalidSpec: the range is not within the layer, or there is neither image nor ``blob_url``.
            SizeMismatch: the registry has more bytes than declared.
            RequestRefused: ``blob_url`` or a redirect leads where no request may go.
            RegistryError: the registry answered with an error or could not be reached; see its subclasses.
        """
        what = f"{image}: layer {layer.digest}" if image else f"layer {layer.digest}"
        end = layer.size if length is None else offset + length
        # Only an empty blob has no byte to begin with.
        if not (0 <= offset < end <= layer.size or 0 == offset == end == layer.size):
            wanted = f"offset {offset}" + (f" and length {length}" if length is not None else "")
            raise InvalidSpec(f"{what}: {wanted} is not within its {layer.size} bytes")
        where = await self._blob_places(image, layer)
        requests = BlobRequests(self._requests, self._rules, self._places, where, layer, what, avoiding)
        async with BlobStream(requests, layer, what, (offset, end), self._retry, self._patience) as stream:
            yield stream

    async def _blob_places(self, image: OciRef | None, layer: LayerSpec) -> tuple[Place, ...]:
        if layer.blob_url is not None:
            return (Place(self._endpoint(image) if image else None, own=True, url=layer.blob_url),)
        if image is None:
            raise InvalidSpec(f"layer {layer.digest}: has no blob_url, and no image tells where it is")
        places = await self._places.of(image, by_digest=True)
        named_by = self._endpoint(image)
        return (*places, *(Place(named_by, url=url) for url in layer.urls[:_URLS_TRIED]))

    async def has_blob(self, image: OciRef, layer: LayerSpec) -> bool:
        """Tell whether the repository of *image*, or a mirror, says that it serves *layer* to the caller.

        False is no proof of the contrary: a request for the content tells why.

        Raises:
            RequestRefused: a redirect leads where no request may go.
            RegistryError: the registry could not be reached.
        """
        try:
            await self._places.ask(image, partial(has_blob, self._requests, image, layer))
        except RegistryError as exc:
            # An answer to HEAD tells no more than its status.
            if exc.status is None:
                raise
            return False
        return True

    async def exists(self, image: OciRef) -> bool:
        """Tell whether the registry has what *image* names; its layers are not asked for.

        Raises:
            InvalidReference: the digest is shortened, or of an algorithm that can't be verified.
            RegistryError: the registry answered with another error than "not found", or could not be reached.
        """
        try:
            attempt = partial(has_manifest, self._requests, image)
            await self._places.ask(image, attempt, by_digest=image.pinned is not None)
        except NotFound:
            return False
        return True

    async def tags(self, image: OciRef) -> AsyncGenerator[str]:
        """List the tags of the repository of *image*, in the registry's order.

        Args:
            image: whose repository is meant; its tag and digest do not matter.

        Returns:
            An async iterator, which asks for a page when it comes to it.

        Raises:
            NotFound: there is no such repository.
            RequestRefused: the next page is said to be at another origin.
            RegistryError: the registry failed, sent what is no list of tags, or a list without an end.
        """
        endpoint = await self._registry(image)
        async with aclosing(list_tags(self._requests, endpoint, image, self._retry)) as tags:
            async for tag in tags:
                yield tag

    async def push(
        self,
        image: OciRef,
        manifest: bytes,
        media_type: str,
        blobs: Iterable[LayerSpec],
        source: BlobReader,
        *,
        mounts: Mapping[ImageDigest, str] | None = None,
        progress: ProgressReporter | None = None,
    ) -> ImageDigest:
        """Push a manifest or an index under the name *image*, and before it the blobs that it needs.

        Blobs that the repository has are not sent, and an upload that breaks off goes on where it was.

        Args:
            image: where to, by tag, or by the manifest's own digest. With both, the tag is set.
            manifest: its bytes, which are sent as they are.
            media_type: its media type.
            blobs: config and layers; none for an index, whose manifests are pushed by digest before it.
            source: reads them, such as an `ImageStore`.
            mounts: repositories of the same registry (as in request paths) to take blobs from, by digest.
            progress: told the bytes that are there.

        Returns:
            The manifest's digest, by which the registry has it now.

        Raises:
            DigestMismatch: the manifest is not what the digest in *image* names, a blob in *source* was
                altered, or the registry says that it has taken something else.
            LayersMissing: a blob is not in *source*.
            Unauthorized: the registry wants other credentials for pushing.
            RequestRefused: the registry sends us where no request may go.
            RegistryError: it refused the image, or could not be reached; blobs that it has stay for the next
                try.
        """
        digest = image.pinned or ImageDigest.of(manifest)
        check_digest(manifest, digest, str(image), "the caller")
        to = Destination(self._requests, self._rules, await self._registry(image), self._retry)
        progress = progress or NoopProgress()
        with finishing(progress):
            await push_image(to, image, manifest, media_type, digest, blobs, source, mounts or {}, progress)
        return digest

    async def _registry(self, image: OciRef) -> Endpoint:
        """Return where *image* itself is, and no mirror of it."""
        places = [place.repository for place in await self._places.of(image, by_digest=False)]
        last, others = places[-1], places[-2:-1]
        if others and others[0] == replace(last, root=last.root.with_scheme("https")):
            # An insecure one may speak TLS all the same.
            secure = others[0]
            with suppress(RegistryError):
                url = secure.root.with_path("/v2/")
                async with self._requests.open("GET", url, None, f"{image}: {secure.host}"):
                    return secure
        return last

    def _endpoint(self, image: OciRef) -> Endpoint:
        return Endpoint(self._rules.registry_url(image.api_host), image.api_repository)
