"""Record what a program sends to an engine: a relay on a unix socket that keeps the bodies of requests."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_CHUNK = 1 << 16


class Recorder:
    """Passes every connection on to the engine's socket, and keeps what came up it."""

    def __init__(self, path: Path, target: Path) -> None:
        self.url = f"unix://{path}"
        self._target = target
        self._sent: list[bytearray] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept)]
        self._sockets = [self._listener]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        for each in self._sockets:
            _end(each)
        for thread in self._threads:
            thread.join(10)
        for each in self._sockets:
            each.close()

    def bodies(self, request: str) -> list[Any]:
        """Return the documents that were sent with each request whose line has *request* in it."""
        passed = [found for sent in self._sent for found in _requests(bytes(sent))]
        return [json.loads(body) for line, body in passed if request in line]

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                engine = socket.socket(socket.AF_UNIX)
                engine.connect(str(self._target))
                self._sockets += (client, engine)
                self._sent.append(bytearray())
                for source, sink, kept in ((client, engine, self._sent[-1]), (engine, client, bytearray())):
                    thread = threading.Thread(target=_carry, args=(source, sink, kept))
                    self._threads.append(thread)
                    thread.start()


def _carry(source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
    with suppress(OSError):
        while data := source.recv(_CHUNK):
            kept += data
            sink.sendall(data)
    _end(source)
    _end(sink)


def _end(ended: socket.socket) -> None:
    with suppress(OSError):
        ended.shutdown(socket.SHUT_RDWR)


def _requests(sent: bytes) -> list[tuple[str, bytes]]:
    """Take apart what was sent on one connection: request lines and bodies."""
    found = []
    while sent:
        head, _, sent = sent.partition(b"\r\n\r\n")
        line, *headers = head.decode().split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in headers)}
        if fields.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(sent[: sent.index(b"\r\n")], 16):
                start = sent.index(b"\r\n") + 2
                body, sent = body + sent[start : start + size], sent[start + size + 2 :]
            sent = sent[sent.index(b"\r\n") + 4 :]
        else:
            size = int(fields.get("content-length", "0"))
            body, sent = sent[:size], sent[size:]
        found.append((line, body))
    return found
