"""Which ports are told to be listened on, and where one is reached."""

from __future__ import annotations

import pytest

from aioruntime.engine.endpoint import Endpoint
from aioruntime.runtime.waiting import listening_ports, reachable_host


def test_ports_in_the_tables_of_linux() -> None:
    """Only sockets that listen, on an address that can be reached from outside, count."""
    head = "  sl  local_address rem_address   st tx_queue rx_queue"
    rows = [
        "   0: 00000000:1F90 00000000:0000 0A 00000000:00000000",
        "   1: 0100007F:1F91 00000000:0000 0A 00000000:00000000",
        "   2: 00000000:1F92 0200007F:0001 01 00000000:00000000",
        "   0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 0:0",
        "   1: 0000000000000000FFFF00000100007F:0053 00000000000000000000000000000000:0000 0A 0:0",
        "   1: 0B00007F:0054 00000000:0000 0A 00000000:00000000",
        "   1: 00000000000000000000000001000000:0051 00000000000000000000000000000000:0000 0A 0:0",
        "a zz c 0A",
        "a 00000000:zz c 0A",
        "   2: 0000000000000000FFFF0000010011AC:0052 00000000000000000000000000000000:0000 0A 0:0",
        "",
    ]
    assert listening_ports("\n".join([head, *rows])) == {8080, 80, 82}


@pytest.mark.parametrize(
    ("url", "bound", "host"),
    [
        ("unix:///run/docker.sock", "0.0.0.0", "127.0.0.1"),
        ("unix:///run/docker.sock", "127.0.0.1", "127.0.0.1"),
        ("tcp://localhost:2375", "127.0.0.2", "127.0.0.2"),
        ("tcp://far:2375", "::", "far"),
        ("tcp://far:2375", "192.0.2.1", "192.0.2.1"),
        ("ssh://user@far", "127.0.0.1", None),
        ("https://[2001:db8::1]:2376", "::1", None),
    ],
)
def test_where_a_published_port_is_reached(url: str, bound: str, host: str | None) -> None:
    """A port on the loopback of another machine is nobody's here, and another program's may be: not tried."""
    assert reachable_host(Endpoint(url, "test"), bound) == host
