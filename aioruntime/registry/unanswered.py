"""Tell why no answer came, or not all of it, in words that hold no URL: its query may be a signature (L2)."""

from __future__ import annotations

__all__ = ("FAILURES", "cause_of", "may_be_over", "proxy_status", "reason_of", "unreached")

import socket
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.http import HttpProcessingError

from aioruntime.errors import one_line
from aioruntime.registry.origins import host_of, same_origin

if TYPE_CHECKING:
    from yarl import URL

FAILURES = (aiohttp.ClientError, HttpProcessingError, OSError, ValueError)
"""What a request, or reading its answer, can fail with."""


def unreached(
    exc: Exception,
    url: URL,
    registry: URL,
    *,
    connect_timeout: float,
    stall_timeout: float,
    proxy: str | None = None,
) -> str:
    """Tell that, and why, *url* gave no answer, asked through *proxy* if there is one."""
    named = host_of(url)
    host = f"{named} (through the proxy {proxy})" if proxy else named
    if isinstance(exc, aiohttp.ClientHttpProxyError):
        return f"{host} could not be reached: the proxy answered {exc.status} {reason_of(exc)}"
    if isinstance(exc, aiohttp.ConnectionTimeoutError):
        text = f"{host} could not be reached within {connect_timeout:g} s"
    elif isinstance(exc, TimeoutError):
        return f"{host} did not answer within {stall_timeout:g} s"
    elif isinstance(exc, aiohttp.ClientConnectorCertificateError):
        return (
            f"{host} could not be reached: {reason_of(exc)}; if it is of a private authority, put that into "
            f"~/.config/containers/certs.d/{named}/ca.crt"
        )
    elif isinstance(exc, aiohttp.ClientConnectorError):
        text = f"{host} could not be reached: {reason_of(exc)}"
    else:
        return f"{host} broke the connection off or answered no valid HTTP: {reason_of(exc)}"
    certain = isinstance(exc, aiohttp.ClientConnectorDNSError | aiohttp.ClientProxyConnectionError)
    if url.scheme == "https" and same_origin(url, registry) and not certain:
        text += f"; if it speaks only plain HTTP, allow that with plain_http=[{named!r}]"
    return text


def proxy_status(exc: Exception) -> int | None:
    """Return the status with which a proxy refused to let us through; None if that is not what happened."""
    return exc.status if isinstance(exc, aiohttp.ClientHttpProxyError) else None


def may_be_over(exc: Exception) -> bool:
    """Tell whether the failure may be over the next time; not what certificates, names and URLs are."""
    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        return exc.os_error.errno != socket.EAI_NONAME
    return not isinstance(exc, aiohttp.ClientConnectorCertificateError | aiohttp.InvalidURL | ValueError)


def reason_of(exc: Exception) -> str:
    """Tell what went wrong."""
    if isinstance(exc, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not valid: {one_line(str(exc.certificate_error), 160)}"
    if isinstance(exc, aiohttp.ClientConnectorError):
        return one_line(exc.os_error.strerror or str(exc.os_error) or type(exc.os_error).__name__, 160)
    if isinstance(exc, aiohttp.ClientResponseError | HttpProcessingError):
        # Further lines have what was sent to us, which may be a token.
        return one_line(exc.message.partition("\n")[0], 160) or type(exc).__name__
    if isinstance(exc, aiohttp.InvalidURL):
        return "not a valid URL"
    return one_line(str(exc), 160) or type(exc).__name__


def cause_of(exc: Exception) -> Exception | None:
    """Return *exc* to be shown as the cause, unless it holds a URL.

    It has no traceback: the frames below us have what was sent, with its secrets, in their variables.
    """
    key = getattr(exc, "_conn_key", None)
    if isinstance(exc, aiohttp.ClientResponseError | aiohttp.InvalidURL) or (key and key.proxy):
        return None
    exc.__cause__ = exc.__context__ = None
    return exc.with_traceback(None)
