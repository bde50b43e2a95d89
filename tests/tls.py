"""TLS for tests: an authority of our own, and a proxy that speaks TLS in front of a server that does not."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Authority:
    """A certificate authority: its certificate, and one that it gave to a server, with the server's key."""

    ca: Path
    server: Path


def make_authority(folder: Path, *names: str) -> Authority:
    """Files of an authority, and of a server that has these names (or addresses)."""
    folder.mkdir(parents=True, exist_ok=True)
    ca_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority for tests")])
    ca = _certificate(ca_name, ca_name, ca_key, ca_key, x509.BasicConstraints(ca=True, path_length=None))
    alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    server = _certificate(subject, ca_name, server_key, ca_key, alternatives)
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(ca.public_bytes(pem))
    key = server_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.pem").write_bytes(server.public_bytes(pem) + key)
    return Authority(folder / "ca.pem", folder / "server.pem")


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    extension: x509.ExtensionType,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1)).add_extension(extension, critical=True)
    return builder.sign(issuer_key, hashes.SHA256())


class TlsProxy:
    """Takes TLS connections on a free port of 127.0.0.1 and passes what they carry to another port.

    ``first_bytes`` holds what each client sent first after its handshake.
    """

    def __init__(self, authority: Authority, upstream: int | None) -> None:
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(authority.server)
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.first_bytes: list[bytes] = []
        self.port = int(self._listener.getsockname()[1])
        self._start(self._accept)

    def close(self) -> None:
        for connection in (self._listener, *self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for connection in (self._listener, *self._open):
            connection.close()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                self._start(self._serve, self._listener.accept()[0])

    def _serve(self, plain: socket.socket) -> None:
        self._open.append(plain)
        plain.settimeout(10)
        with suppress(OSError):  # also ssl.SSLError: the client does not trust us
            client = self._context.wrap_socket(plain, server_side=True)
            self._open.append(client)
            client.settimeout(None)
            first = client.recv(65536)
            self.first_bytes.append(first)
            if self._upstream is not None and first:
                server = socket.create_connection(("127.0.0.1", self._upstream))
                self._open.append(server)
                server.sendall(first)
                self._start(_copy, server, client)
                _copy(client, server)
            client.shutdown(socket.SHUT_RDWR)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


@contextmanager
def tls_proxy(authority: Authority, upstream: int | None) -> Iterator[TlsProxy]:
    """A proxy at work; without ``upstream`` it reads what the client sends first and hangs up."""
    proxy = TlsProxy(authority, upstream)
    try:
        yield proxy
    finally:
        proxy.close()
