"""Where an image is asked for: its mirrors in their order, then its own registry (L2, pure)."""

from __future__ import annotations

__all__ = ("Place", "matching_rule", "places_of")

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aioruntime.errors import InvalidConfiguration, InvalidReference, RequestRefused
from aioruntime.oci.reference import OciRef
from aioruntime.registry.endpoints import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aioruntime.registry.origins import Rules
    from aioruntime.registry.registries_conf import Location, RegistryRule, Use


@dataclass(frozen=True, slots=True)
class Place:
    """Where something can be had.

    Args:
        endpoint: a repository; None if only a URL is known.
        own: whether this is what the image's name, or the caller, means, and nothing in its stead: only then
            can the repository's credentials go to *url*.
        url: where a layer is, if it is not within the repository; if not *own*, that repository named it.
    """

    endpoint: Endpoint | None
    own: bool = False
    url: str | None = None

    @property
    def repository(self) -> Endpoint:
        """The repository; to be asked for only where there is one."""
        assert self.endpoint is not None
        return self.endpoint


def places_of(
    image: OciRef, registries: Sequence[RegistryRule], rules: Rules, *, by_digest: bool
) -> tuple[Place, ...]:
    """List where *image* is asked for, in order.

    Args:
        image: the image.
        registries: what is known of registries; the longest prefix wins.
        rules: which hosts are spoken to without TLS.
        by_digest: whether what is asked for is named by its digest.

    Raises:
        RequestRefused: the image is blocked.
        InvalidConfiguration: what takes the place of its prefix makes no name.
    """
    own = Place(Endpoint(rules.registry_url(image.api_host), image.api_repository), own=True)
    rule = matching_rule(image, registries)
    if rule is None:
        return (own,)
    if rule.blocked:
        raise RequestRefused(f"{image}: {rule.prefix} is blocked by {rule.source}; no request was made")
    found: list[Place] = []
    for mirror in rule.mirrors:
        if _serves(mirror.use, image, by_digest=by_digest):
            found += _places_at(_moved(image, rule, mirror.name), mirror, rules)
    if rule.location is not None:
        found += _places_at(_moved(image, rule, rule.location.name), rule.location, rules)
    else:
        found += _places_at(image, rule, rules, own=True)
    # Some name the registry itself among its mirrors.
    return tuple(dict.fromkeys(own if place.endpoint == own.endpoint else place for place in found))


def _serves(use: Use, image: OciRef, *, by_digest: bool) -> bool:
    # What a tag led to is named by digests, any mirror's; but a mirror that knows newer tags has to give the
    # layers that they lead to as well.
    return use == "all" or (by_digest if use == "digest-only" else image.digest is None)


def _places_at(
    image: OciRef, where: Location | RegistryRule, rules: Rules, *, own: bool = False
) -> Iterable[Place]:
    root = rules.registry_url(image.api_host)
    roots = [root]
    if where.insecure and root.scheme == "https":
        roots.append(root.with_scheme("http"))
    return [Place(Endpoint(each, image.api_repository), own) for each in roots]


def matching_rule(image: OciRef, registries: Iterable[RegistryRule]) -> RegistryRule | None:
    """Return the rule with the longest prefix of the name of *image*; None if there is none."""
    matching = [(end, rule) for rule in registries if (end := _match(image, rule.prefix))]
    longest = max(matching, key=lambda pair: (pair[0], not pair[1].prefix.startswith("*.")), default=None)
    return longest[1] if longest else None


def _match(image: OciRef, prefix: str) -> int:
    """Return how many characters of the image's name *prefix* stands for; 0 if it is no prefix of it."""
    name = _name(image)
    if prefix.startswith("*."):
        host = name.partition("/")[0].partition(":")[0]
        return len(host) if host.endswith(prefix[1:]) else 0
    if not name.startswith(prefix):
        return 0
    # The name of a host does not stand for that of another port, but a repository's for its tags.
    return len(prefix) if name[len(prefix) :][:1] in ("", *("/:@" if "/" in prefix else "/")) else 0


def _moved(image: OciRef, rule: RegistryRule, to: str) -> OciRef:
    """Return *image* with *to* in the place of the prefix."""
    name = to + _name(image)[_match(image, rule.prefix) :]
    host, _, path = name.partition("/")
    try:
        return OciRef(host, OciRef.parse(f"localhost/{path}").repository)
    except InvalidReference:
        raise InvalidConfiguration(
            f"{image}: {rule.source} puts {to} in the place of {rule.prefix}, which makes no image's name"
        ) from None


def _name(image: OciRef) -> str:
    """Return the whole name, as prefixes are compared with it."""
    host, slash, path = image.full_name.partition("/")
    tag = image.tag or ("" if image.digest else "latest")
    return (
        host.lower()
        + slash
        + path
        + (f":{tag}" if tag else "")
        + (f"@{image.digest}" if image.digest else "")
    )
