"""A node of Apache Kafka that trusts nobody without a certificate or a password, nor with one.

Certificates and passwords are made anew for every session of tests, and kept nowhere.
"""

import secrets
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apache_kafka import (
    START_LIMIT_S,
    STOP_LIMIT_S,
    fill,
    format_storage,
    new_cluster_id,
    start_node,
)

from headrace.streams.child import Child
from headrace.streams.kafka.access import TOPICS
from headrace.streams.kafka.broker import HOST, free_ports, wait_until_ready
from headrace.streams.settings import Settings

SCRAM = ("SCRAM-SHA-256", "SCRAM-SHA-512")
MECHANISMS = ("PLAIN", *SCRAM)
As = Callable[[str], Settings]  # the settings of a role
NOBODY = "nobody"  # has a password and a certificate, and no rights
EC_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")


class Certificates:
    """A certificate authority in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.ca = folder / "ca.crt"
        about = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign"]
        self._make("ca", *about)

    def issue(self, name: str) -> Path:
        """Return a new key and the certificate of CN=``name``, for the address ``HOST`` only."""
        about = ["basicConstraints=critical,CA:FALSE", f"subjectAltName=IP:{HOST}"]
        self._make(name, *about, signed=["-CA", str(self.ca), "-CAkey", str(self._path("ca.key"))])
        both = self._path(f"{name}.pem")
        parts = [self._path(f"{name}.key"), self._path(f"{name}.crt"), self.ca]
        both.write_text("".join(part.read_text() for part in parts))
        return both

    def _make(self, name: str, *extensions: str, signed: list[str] | None = None) -> None:
        files = ["-keyout", str(self._path(f"{name}.key")), "-out", str(self._path(f"{name}.crt"))]
        about = [argument for text in extensions for argument in ("-addext", text)]
        command = ["openssl", "req", "-x509", *EC_KEY, "-subj", f"/CN={name}", *files, *about]
        subprocess.run([*command, *(signed or [])], check=True, capture_output=True)

    def _path(self, name: str) -> Path:
        return self.folder / name


@dataclass(slots=True)
class SecureKafka:
    """How each role reaches the node."""

    folder: Path
    certificates: Certificates
    ports: dict[str, int]
    passwords: dict[str, str] = field(repr=False)
    child: Child

    def with_password(self, role: str, mechanism: str) -> dict[str, Any]:
        """Return what a role sets to show its password through TLS."""
        return {
            "bootstrap": f"{HOST}:{self.ports['sasl_tls']}",
            "security_protocol": "SASL_SSL",
            "ssl_ca_file": str(self.certificates.ca),
            "sasl_mechanism": mechanism,
            "sasl_username": f"headrace-{role}",
            "sasl_password": self.passwords[f"headrace-{role}"],
        }

    def with_certificate(self, name: str) -> dict[str, Any]:
        """Return what someone sets to show the certificate of CN=``name``."""
        return {
            "bootstrap": f"{HOST}:{self.ports['tls']}",
            "security_protocol": "SSL",
            "ssl_ca_file": str(self.certificates.ca),
            "ssl_certificate_file": str(self.certificates.folder / f"{name}.pem"),
        }

    def access(self, role: str, way: str) -> tuple[str, dict[str, Any]]:
        """Return a role's principal and what it sets: ``way`` is TLS or one of ``MECHANISMS``."""
        if way == "TLS":
            return f"User:CN={role}", self.with_certificate(role)
        return f"User:headrace-{role}", self.with_password(role, way)


@contextmanager
def secure_kafka(folder: Path) -> Iterator[SecureKafka]:
    """Run the node; only CN=operator has any rights."""
    certificates = Certificates(folder / "certificates")
    for name in ("broker", "operator", NOBODY, *TOPICS):
        certificates.issue(name)
    passwords = {f"headrace-{role}": secrets.token_hex(16) for role in (NOBODY, *TOPICS)}
    listeners = ("tls", "sasl_tls", "sasl", "controller")
    ports = dict(zip(listeners, free_ports(len(listeners)), strict=True))
    properties = folder / "secure.properties"
    plain_users = " ".join(f'user_{user}="{text}"' for user, text in passwords.items())
    fill(
        properties,
        "secure.properties",
        folder=certificates.folder,
        plain_users=plain_users,
        **ports,
    )
    scram_users = [
        argument
        for mechanism in SCRAM
        for user, text in passwords.items()
        for argument in ("--add-scram", f"{mechanism}=[name={user},password={text}]")
    ]
    format_storage(properties, new_cluster_id(), *scram_users)
    node = SecureKafka(folder, certificates, ports, passwords, start_node(properties))
    try:
        operator = Settings(**node.with_certificate("operator"))
        wait_until_ready(operator, node.child, limit_s=START_LIMIT_S)
        yield node
    finally:
        node.child.stop(limit_s=STOP_LIMIT_S)
