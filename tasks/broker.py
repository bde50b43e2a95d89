"""Connects to the broker, in one way for workers, dispatcher, beat, Flower and `vgen doctor`."""

import secrets
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kombu import Connection, Exchange, Queue

from pipeline.errors import ServiceUnavailableError, SettingsError
from pipeline.settings import Settings
from pipeline.settings.broker_url import AMQP, REDIS, BrokerUrl, parse_broker_url
from tasks import memory_broker

_CHECK_S = 5


@dataclass(frozen=True, slots=True)
class BrokerOptions:
    """The values of Celery's settings ``broker_url``, ``broker_use_ssl`` and ``broker_transport_options``."""

    url: str
    use_ssl: dict[str, Any] | None
    transport: dict[str, Any]


def broker_options(settings: Settings) -> BrokerOptions:
    """Return the connection options, by the settings.

    Raises:
        SettingsError: VGEN_BROKER_URL is not an address of a broker, or names a file that is not there.
    """
    if settings.broker_url is None:
        return BrokerOptions(memory_broker.URL, None, {"polling_interval": 0.05})
    parsed = _parsed(settings.broker_url)
    if parsed.kind == AMQP:
        return BrokerOptions(parsed.url, _amqp_tls(parsed), {})
    return BrokerOptions(
        parsed.url,
        _redis_tls(parsed),
        {
            # Longer than any stage: recovery is the reconciler's, redelivery only duplicates running work.
            "visibility_timeout": settings.worker.visibility_timeout_s,
            "socket_timeout": 30,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
        },
    )


def is_redis(settings: Settings) -> bool:
    """Return whether the broker is Redis. Raises SettingsError."""
    return settings.broker_url is not None and _parsed(settings.broker_url).kind == REDIS


@dataclass(frozen=True, slots=True)
class BrokerState:
    """A broker that took a message and gave it back."""

    address: str
    """Its address without user and password."""
    tls: bool
    verified: bool
    """Whether its certificate was compared with the authorities that this host trusts, and with its name."""
    eviction: str | None
    """Redis's maxmemory-policy, or ``unknown``; None for another broker."""


def check_broker(settings: Settings) -> BrokerState:
    """Connect as a worker does, and send a message through a queue of its own.

    Raises:
        SettingsError: as ``broker_options``; also in solo mode, which has no broker.
        ServiceUnavailableError: it cannot be reached, refuses us, or does not give the message back.
    """
    if settings.broker_url is None:
        raise SettingsError("VGEN_BROKER_URL is not set: in solo mode there is no broker to check")
    parsed = _parsed(settings.broker_url)
    with _connected(settings) as connection:
        _send_and_receive(connection)
        eviction = _eviction_policy(connection) if parsed.kind == REDIS else None
    addresses = ", ".join(f"{host}:{port}" for host, port in parsed.addresses) or "a socket file"
    return BrokerState(addresses, parsed.tls, parsed.verify is ssl.CERT_REQUIRED and parsed.check_hostname, eviction)


def reach_broker(settings: Settings) -> None:
    """Connect as a worker does, and no more. Raises as ``check_broker`` does."""
    with _connected(settings):
        pass


def _parsed(url: str) -> BrokerUrl:
    try:
        parsed = parse_broker_url(url)
    except ValueError as error:
        raise SettingsError(f"VGEN_BROKER_URL: {error}") from None
    for name, path in parsed.files.items():
        if not Path(path).is_file():
            raise SettingsError(f"VGEN_BROKER_URL: {name} {path!r} is not a file of this host")
    return parsed


def _redis_tls(parsed: BrokerUrl) -> dict[str, Any] | None:
    """Arguments of redis-py's ``SSLConnection``."""
    if not parsed.tls:
        return None
    return {"ssl_cert_reqs": parsed.verify, "ssl_check_hostname": parsed.check_hostname, **parsed.files}


def _amqp_tls(parsed: BrokerUrl) -> dict[str, Any] | None:
    """Arguments of py-amqp's ``SSLTransport``. It compares the name only where it is given one; None: the address's."""
    if not parsed.tls:
        return None
    files = {name.removeprefix("ssl_"): path for name, path in parsed.files.items()}
    return {"cert_reqs": parsed.verify, **({"server_hostname": None} if parsed.check_hostname else {}), **files}


@contextmanager
def _connected(settings: Settings) -> Iterator[Connection]:
    options = broker_options(settings)
    connection = Connection(
        options.url, ssl=options.use_ssl or False, transport_options=options.transport, connect_timeout=_CHECK_S
    )
    errors = (*connection.connection_errors, *connection.channel_errors, OSError)
    try:
        with connection:
            connection.connect()
            yield connection
    except errors as error:
        address = ", ".join(f"{host}:{port}" for host, port in _parsed(str(settings.broker_url)).addresses)
        raise ServiceUnavailableError(f"broker {address}: {str(error) or type(error).__name__}") from error


def _send_and_receive(connection: Connection) -> None:
    name = f"vgen.check.{secrets.token_hex(8)}"
    queue = connection.SimpleQueue(Queue(name, Exchange(""), routing_key=name, auto_delete=True), no_ack=True)
    token = secrets.token_hex(8)
    try:
        queue.put(token)
        received = queue.get(timeout=_CHECK_S).payload
    except queue.Empty:
        received = None
    finally:
        queue.queue.delete()
        queue.close()
    if received != token:
        raise ServiceUnavailableError("broker: a message that was sent did not come back")


def _eviction_policy(connection: Connection) -> str | None:
    try:
        return str(connection.default_channel.client.info("memory").get("maxmemory_policy", "unknown"))
    except connection.channel_errors:  # a user who may not ask
        return "unknown"
