"""Certificates for an engine behind TLS, and for its clients."""

from __future__ import annotations

import shutil
import ssl
from typing import TYPE_CHECKING

import trustme

if TYPE_CHECKING:
    from pathlib import Path


class Certificates:
    """An authority, a server's side that demands client certificates, and a client's files."""

    def __init__(self, directory: Path) -> None:
        self.authority = trustme.CA()
        self.files = directory
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert("127.0.0.1").configure_cert(server)
        self.authority.configure_trust(server)
        server.verify_mode = ssl.CERT_REQUIRED
        self.server = server
        self.write(self.authority, self.authority)

    def dockerd(self, directory: Path, port: int) -> list[str]:
        """Write a server's files; return the arguments of a `dockerd` that takes only our clients there."""
        directory.mkdir()
        self.authority.cert_pem.write_to_path(directory / "ca.pem")
        certificate = self.authority.issue_cert("127.0.0.1")
        (directory / "cert.pem").write_bytes(certificate.cert_chain_pems[0].bytes())
        certificate.private_key_pem.write_to_path(directory / "key.pem")
        names = {"tlscacert": "ca.pem", "tlscert": "cert.pem", "tlskey": "key.pem"}
        files = [f"--{option}={directory}/{name}" for option, name in names.items()]
        return [f"--host=tcp://127.0.0.1:{port}", "--tlsverify", *files]

    def write(self, trusted: trustme.CA, issuer: trustme.CA | None) -> None:
        """Write the files of a client that trusts one authority and was certified by another."""
        shutil.rmtree(self.files, ignore_errors=True)
        self.files.mkdir(parents=True)
        trusted.cert_pem.write_to_path(self.files / "ca.pem")
        if issuer is not None:
            certificate = issuer.issue_cert("client@example.com", common_name="client")
            (self.files / "cert.pem").write_bytes(certificate.cert_chain_pems[0].bytes())
            certificate.private_key_pem.write_to_path(self.files / "key.pem")
