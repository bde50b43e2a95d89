"""The one way to the broker: which addresses are taken, and that TLS is verified by all who connect."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
from celery import Celery
from flower.utils.broker import Broker
from kombu import pools

from pipeline.errors import ServiceUnavailableError, SettingsError
from pipeline.settings import Settings, load_settings
from tasks.broker import BrokerOptions, broker_options, check_broker, is_redis
from tasks.upkeep.reconciler import queue_depth
from tests.servers import Server, free_port
from tests.tls import Authority, make_authority, tls_proxy

SECRET = "s3cret"


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        (f"sentinel://:{SECRET}@host:26379/0", "sentinel://… is not a broker that vgen works with"),
        (f"sqs://key:{SECRET}@", "sqs://"),
        ("memory://", "memory://"),
        ("vgen-memory://localhost/", "vgen-memory://"),
        (f"http://user:{SECRET}@host/", "http://"),
        (f"postgresql+psycopg://user:{SECRET}@host/db", "postgresql"),
        (f"librabbitmq://user:{SECRET}@host/", "librabbitmq://"),
        ("filesystem:///tmp", "filesystem://"),
        (f"redis//:{SECRET}@host", "not an address"),
        ("localhost:6379", "not an address"),
        (f"os.path:{SECRET}://x", "not an address"),
        (f"redis://:{SECRET}@host:port/0", "cannot be read"),
        (f"redis://:{SECRET}@host:99999/0", "cannot be read"),
        (f"redis://[::1:{SECRET}/0", "cannot be read"),
        (f"redis://:{SECRET}/x@host:6379/0", "%2F"),
        (f"redis://:1/{SECRET}@host:6379/0", "%2F"),
        (f"redis://:1?{SECRET}@host:6379/0", "%3F"),
        (f"redis://:1#{SECRET}@host:6379/0", "%23"),
        (f"amqp://user:1/{SECRET}@host/vhost", "%2F"),
        (f"redis://:{SECRET};x@host:6379/0", "%3B"),
        (f"redis://:{SECRET}@host/name", "number of a database"),
        (f"redis://:{SECRET}@host/0#x", "#"),
        ("redis+socket://host/path", "redis+socket:///PATH"),
        (f"redis://a/0;amqp://user:{SECRET}@b/", "of one kind"),
        (f"redis://a/0;rediss://:{SECRET}@b/0", "must all use TLS"),
        (f"rediss://:{SECRET}@host/0?ssl_cert_reqs=maybe", "required, optional or none"),
        (f"rediss://:{SECRET}@host/0?ssl_check_hostname=perhaps", "true or false"),
        (f"rediss://:{SECRET}@host/0?ssl_ca_cert=x", "ssl_ca_cert is not an option of TLS: use ssl_cert_reqs"),
    ],
)
def test_what_is_not_redis_or_amqp_is_refused_by_the_settings_without_its_password(
    url: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGEN_BROKER_URL", url)

    with pytest.raises(SettingsError, match="VGEN_BROKER_URL") as caught:
        load_settings()

    assert rule in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "kept", "tls"),
    [
        ("redis://", "redis://", None),
        ("redis://host", "redis://host", None),
        ("redis://:p%2Fw%40x@host:6380/3", "redis://:p%2Fw%40x@host:6380/3", None),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0", None),
        ("REDIS://host/0", "redis://host/0", None),
        ("redis+socket:///run/redis.sock", "redis+socket:///run/redis.sock", None),
        ("redis://a/0;redis://b/0", "redis://a/0;redis://b/0", None),
        ("redis://host/0?health_check_interval=5", "redis://host/0?health_check_interval=5", None),
        ("rediss://host/0", "rediss://host/0", (ssl.CERT_REQUIRED, True)),
        ("rediss://host/0?ssl_cert_reqs=CERT_REQUIRED", "rediss://host/0", (ssl.CERT_REQUIRED, True)),
        ("rediss://host/0?ssl_cert_reqs=none", "rediss://host/0", (ssl.CERT_NONE, False)),
        ("rediss://host/0?ssl_check_hostname=false", "rediss://host/0", (ssl.CERT_REQUIRED, False)),
        ("redis://host/0?ssl_cert_reqs=required", "redis://host/0", (ssl.CERT_REQUIRED, True)),
    ],
)
def test_redis_is_connected_to_as_its_address_says(url: str, kept: str, tls: tuple[object, bool] | None) -> None:
    options = broker_options(Settings(broker_url=url))

    assert options.url == kept
    assert is_redis(Settings(broker_url=url))
    assert options.transport["visibility_timeout"] == 86_400
    chosen = options.use_ssl and (options.use_ssl["ssl_cert_reqs"], options.use_ssl["ssl_check_hostname"])
    assert chosen == tls


@pytest.mark.parametrize(
    ("url", "use_ssl"),
    [
        ("amqp://user:password@host:5672/vhost", None),
        ("pyamqp://host//", None),
        ("amqps://host", {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": None}),
        ("amqps://host?ssl_cert_reqs=none", {"cert_reqs": ssl.CERT_NONE}),
    ],
)
def test_rabbitmq_is_connected_to_as_its_address_says(url: str, use_ssl: dict[str, object] | None) -> None:
    assert broker_options(Settings(broker_url=url)) == BrokerOptions(url.partition("?")[0], use_ssl, {})
    assert not is_redis(Settings(broker_url=url))


def test_a_file_of_an_authority_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingsError, match=r"VGEN_BROKER_URL: ssl_ca_certs '/nowhere/ca.pem' is not a file"):
        broker_options(Settings(broker_url="rediss://host/0?ssl_ca_certs=/nowhere/ca.pem"))


# Connections


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("ours"), "localhost", "127.0.0.1")


@pytest.fixture(scope="module")
def of_another_name(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("other"), "broker.example")


def depth(settings: Settings) -> int | None:
    """How many messages wait in an empty queue, as the reconciler asks; None when the broker does not answer."""
    options = broker_options(settings)
    app = Celery("vgen", broker=options.url, set_as_current=False)
    app.conf.update(broker_use_ssl=options.use_ssl or False, broker_transport_options=options.transport)
    app.conf.broker_connection_max_retries = 1
    try:
        with app:
            return queue_depth(app, "vgen.io")
    finally:
        pools.reset()  # kombu's are shared by all who go to one address, whatever they say of TLS


def flower_sees(settings: Settings) -> object:
    """What Flower tells of an empty queue."""
    options = broker_options(settings)

    async def ask() -> object:
        return await Broker(options.url, broker_options=options.transport, broker_use_ssl=options.use_ssl).queues(["q"])

    return asyncio.run(ask())


def test_rediss_is_verified_by_all_who_connect(redis_server: Server, redis_url: str, ours: Authority) -> None:
    with tls_proxy(ours, redis_server.port) as proxy:
        verified = Settings(broker_url=f"rediss://127.0.0.1:{proxy.port}/0?ssl_ca_certs={ours.ca}")
        state = check_broker(verified)
        assert (state.tls, state.verified, state.eviction) == (True, True, "noeviction")
        assert depth(verified) == 0
        assert flower_sees(verified) == [{"name": "q", "messages": 0}]

        unknown = Settings(broker_url=f"rediss://127.0.0.1:{proxy.port}/0")
        taken = len(proxy.first_bytes)
        with pytest.raises(
            ServiceUnavailableError, match=rf"broker 127.0.0.1:{proxy.port}: .*CERTIFICATE_VERIFY_FAILED"
        ):
            check_broker(unknown)
        assert depth(unknown) is None
        with pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED"):
            flower_sees(unknown)
        assert len(proxy.first_bytes) == taken  # nothing was said to it, no password either

        careless = Settings(broker_url=f"rediss://127.0.0.1:{proxy.port}/0?ssl_cert_reqs=none")
        assert (check_broker(careless).verified, depth(careless)) == (False, 0)
        assert flower_sees(careless) == [{"name": "q", "messages": 0}]


def test_a_certificate_of_another_name_is_refused(
    redis_server: Server, redis_url: str, of_another_name: Authority
) -> None:
    with tls_proxy(of_another_name, redis_server.port) as proxy:
        address = f"rediss://127.0.0.1:{proxy.port}/0?ssl_ca_certs={of_another_name.ca}"
        with pytest.raises(ServiceUnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
            check_broker(Settings(broker_url=address))

        assert not check_broker(Settings(broker_url=f"{address}&ssl_check_hostname=false")).verified


@pytest.mark.parametrize("options", ["", "?ssl_ca_certs={ca}", "?ssl_cert_reqs=none"])
def test_amqps_is_verified(options: str, ours: Authority, of_another_name: Authority) -> None:
    """No RabbitMQ is here: what counts is whether its client goes on to speak to a server that it cannot trust."""
    for authority in (ours, of_another_name):
        with tls_proxy(authority, None) as proxy:
            settings = Settings(broker_url=f"amqps://127.0.0.1:{proxy.port}//{options.format(ca=authority.ca)}")
            with pytest.raises(ServiceUnavailableError, match=rf"broker 127.0.0.1:{proxy.port}: "):
                check_broker(settings)

            spoke = any(first.startswith(b"AMQP") for first in proxy.first_bytes)
            trusted = "ca_certs" in options and authority is ours
            assert spoke == (trusted or "none" in options)


def test_a_broker_without_an_answer_is_named_without_its_password(tmp_path: Path) -> None:
    port = free_port()

    with pytest.raises(ServiceUnavailableError, match=rf"broker 127\.0\.0\.1:{port}: ") as caught:
        check_broker(Settings(broker_url=f"redis://:{SECRET}@127.0.0.1:{port}/0"))

    assert SECRET not in str(caught.value)


def test_a_broker_that_takes_no_messages_fails_the_check(redis_server: Server, redis_url: str) -> None:
    import redis  # noqa: PLC0415

    client = redis.Redis.from_url(redis_url)
    client.config_set("maxmemory", "1")
    try:
        with pytest.raises(ServiceUnavailableError, match="maxmemory"):
            check_broker(Settings(broker_url=redis_url))
    finally:
        client.config_set("maxmemory", "0")
        client.close()
