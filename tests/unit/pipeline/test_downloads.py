"""Fetching by URL, against a real server that misbehaves in each way."""

from __future__ import annotations

import hashlib
import ipaddress
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.inputs.collector import InputCollector
from pipeline.inputs.downloads import Downloader
from pipeline.inputs.media_types import UNTYPED, allows
from pipeline.inputs.videos import VIDEO_TYPES
from pipeline.prompts import parse
from pipeline.redaction import shown_url
from pipeline.settings import Settings
from tests.unit.pipeline.test_inputs import picture

PICTURE = picture()
LOOPBACK = ipaddress.ip_network("127.0.0.0/8")
TYPES = ("image/png", "image/jpeg", "image/webp")
LIMIT = 100_000


class _Site(BaseHTTPRequestHandler):
    """Each path fails in its own way."""

    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, str, str]]

    def do_GET(self) -> None:
        type(self).seen.append((self.path, self.client_address[0], self.headers["Host"]))
        getattr(self, "_" + self.path.strip("/").split("?")[0].split("/")[0].replace(".", "_"), self._missing)()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, body: bytes, status: int = 200, /, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _missing(self) -> None:
        self._answer(b"gone", 404)

    def _good_png(self) -> None:
        self._answer(PICTURE, Content_Type="image/png")

    def _untyped(self) -> None:
        self._answer(PICTURE)

    def _page(self) -> None:
        self._answer(b"<html>", Content_Type="text/html; charset=utf-8")

    def _liar(self) -> None:
        self._answer(b"<html>", Content_Type="image/png")

    def _large(self) -> None:
        self._answer(b"", Content_Length=str(LIMIT + 1), Content_Type="image/png")
        self.close_connection = True

    def _endless(self) -> None:
        self._answer(b"", Content_Length="", Content_Type="image/png", Transfer_Encoding="chunked")
        try:
            while True:
                self.wfile.write(b"1000\r\n" + bytes(0x1000) + b"\r\n")
        except OSError:
            self.close_connection = True

    def _squeezed(self) -> None:
        self._answer(PICTURE, Content_Type="image/png", Content_Encoding="gzip")

    def _cut(self) -> None:
        self._answer(PICTURE[:100], Content_Length=str(len(PICTURE)), Content_Type="image/png")
        self.close_connection = True

    def _drip(self) -> None:
        self._answer(b"", Content_Length="1000", Content_Type="image/png")
        self._dribble()

    def _drip_headers(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        self._dribble(b"X-%d: y\r\n")

    def _dribble(self, form: bytes = b"%d") -> None:
        try:
            for number in range(10):
                self.wfile.write(form % number)
                self.wfile.flush()
                time.sleep(0.1)
        except OSError:
            pass
        self.close_connection = True

    def _moved(self) -> None:
        self._answer(b"", 302, Location="/good.png?secret=1")

    def _round(self) -> None:
        self._answer(b"", 302, Location="/round")

    def _astray(self) -> None:
        port = self.server.server_address[1]
        self._answer(b"", 302, Location=f"http://127.1.2.3:{port}/good.png")

    def _local(self) -> None:
        self._answer(b"", 302, Location="file:///etc/passwd")

    def _hang_up(self) -> None:
        self.close_connection = True


@pytest.fixture
def site() -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    handler = type("Handler", (_Site,), {"seen": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", handler.seen  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()


@pytest.fixture
def downloader() -> Iterator[Downloader]:
    downloader = Downloader(allowed=[LOOPBACK], timeout_s=10)
    yield downloader
    downloader.close()


def fetch(downloader: Downloader, url: str, to: Path) -> str:
    return downloader.fetch(url, to, max_bytes=LIMIT, media_types=TYPES)


@pytest.mark.parametrize("path", ["good.png", "untyped", "moved", "good.png?token=abc"])
def test_a_file_is_fetched(
    downloader: Downloader, site: tuple[str, list[tuple[str, str, str]]], tmp_path: Path, path: str
) -> None:
    digest = fetch(downloader, f"{site[0]}/{path}", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == PICTURE
    assert digest == hashlib.sha256(PICTURE).hexdigest()
    assert {f"http://{host}" for _, _, host in site[1]} == {site[0]}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing", "status 404"),
        ("page", "is text/html, not one of image/jpeg"),
        ("large", "has 100001 bytes; at most 100000"),
        ("endless", "more than 100000 bytes"),
        ("squeezed", "encoding gzip"),
        ("cut", "cannot be fetched"),
        ("round", "redirects more than 5 times"),
        ("local", "is file:, and only http and https"),
        ("hang_up", "cannot be fetched"),
    ],
)
def test_each_failure_is_named_and_leaves_nothing(
    downloader: Downloader, site: tuple[str, list[tuple[str, str, str]]], tmp_path: Path, path: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fetch(downloader, f"{site[0]}/{path}?token=secret", tmp_path / "a")
    assert not (tmp_path / "a").exists()
    fetch(downloader, f"{site[0]}/good.png", tmp_path / "a")  # and the next one works


def test_messages_hold_no_secret(
    downloader: Downloader, site: tuple[str, list[tuple[str, str, str]]], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="404") as caught:
        fetch(downloader, f"{site[0]}/x?token=secret#s", tmp_path / "a")
    assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match="user name or password") as caught:
        fetch(downloader, "http://me:secret@example.com/a.png", tmp_path / "a")
    assert "secret" not in str(caught.value)
    assert shown_url("https://u:p@h/a?b#c") == "https://h/a"


@pytest.mark.parametrize("path", ["drip", "drip_headers"])
def test_a_server_that_drips_is_given_up_in_time(
    site: tuple[str, list[tuple[str, str, str]]], tmp_path: Path, path: str
) -> None:
    downloader = Downloader(allowed=[LOOPBACK], timeout_s=0.3)
    with pytest.raises(ValueError, match=r"took longer than 0\.3 s"):
        fetch(downloader, f"{site[0]}/{path}", tmp_path / "a")
    downloader.close()


@pytest.mark.parametrize(
    "url", ["ftp://example.com/a", "http:///a.png", "http://[::1", "http://x\n.com/", "https://no-such-host.invalid/a"]
)
def test_what_is_no_url_to_fetch(downloader: Downloader, tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match=r"only http|names no host|is not a valid URL|cannot be fetched"):
        fetch(downloader, url, tmp_path / "a")


def test_loopback_is_refused_unless_allowed(site: tuple[str, list[tuple[str, str, str]]], tmp_path: Path) -> None:
    downloader = Downloader()
    for host in ("127.0.0.1", "localhost", "[::1]"):
        url = site[0].replace("127.0.0.1", host)
        with pytest.raises(ValueError, match=r"private network; see the setting fetch\.networks"):
            fetch(downloader, f"{url}/good.png", tmp_path / "a")
    assert site[1] == []  # nobody was even asked


def test_a_redirect_leads_no_further_than_the_rule(
    site: tuple[str, list[tuple[str, str, str]]], tmp_path: Path
) -> None:
    downloader = Downloader(allowed=[ipaddress.ip_network("127.0.0.1/32")])
    with pytest.raises(ValueError, match=r"leads to 127\.1\.2\.3 at 127\.1\.2\.3"):
        fetch(downloader, f"{site[0]}/astray", tmp_path / "a")
    downloader.close()


def test_a_name_is_judged_by_the_address_that_is_connected_to(
    site: tuple[str, list[tuple[str, str, str]]], tmp_path: Path
) -> None:
    """DNS rebinding: whoever looked the name up twice would judge the first answer and connect to the second."""
    answers = iter([["127.0.0.1"], ["127.0.0.2"], ["127.0.0.2"]])
    port = site[0].rpartition(":")[2]
    allowed = [ipaddress.ip_network("127.0.0.1/32")]

    first = Downloader(allowed=allowed, resolve=lambda host, port: next(answers))
    fetch(first, f"http://rebound.example:{port}/good.png", tmp_path / "a")
    first.close()
    assert [(client, host) for _, client, host in site[1]] == [("127.0.0.1", f"rebound.example:{port}")]

    second = Downloader(allowed=allowed, resolve=lambda host, port: next(answers))
    with pytest.raises(ValueError, match=r"rebound\.example at 127\.0\.0\.2"):
        fetch(second, f"http://rebound.example:{port}/good.png", tmp_path / "b")
    assert len(site[1]) == 1


def test_a_resolver_that_does_not_answer_is_given_up_in_time(tmp_path: Path) -> None:
    asleep = threading.Event()

    def resolve(host: str, port: int) -> list[str]:
        asleep.wait(60)
        return []

    with pytest.raises(ValueError, match=r"took longer than 0\.2 s"):
        fetch(Downloader(timeout_s=0.2, resolve=resolve), "http://slow.example/a.png", tmp_path / "a")
    asleep.set()


@pytest.mark.parametrize(
    "declared",
    ["image/png", "IMAGE/PNG", "image/png; q=1", "image/x-png", "image/jpg", "Image/PJPEG;x=y", "", *sorted(UNTYPED)],
)
def test_other_names_of_the_same_media_type_are_known(declared: str) -> None:
    assert allows(declared, TYPES)


@pytest.mark.parametrize("declared", ["video/x-m4v", "video/quicktime", "application/mp4", "VIDEO/3GPP", "video/webm"])
def test_other_names_of_video_types_are_known(declared: str) -> None:
    assert allows(declared, VIDEO_TYPES.values())
    assert not allows(declared, TYPES)


@pytest.mark.parametrize("declared", ["text/html", "image/gif", "image", "image/png/x", "video/x-mpegurl", "png"])
def test_other_types_are_refused(declared: str) -> None:
    assert not allows(declared, (*TYPES, *VIDEO_TYPES.values()))


def test_one_private_address_among_several_is_enough_to_refuse(tmp_path: Path) -> None:
    downloader = Downloader(resolve=lambda host, port: ["93.184.215.14", "10.0.0.1"])
    with pytest.raises(ValueError, match=r"at 10\.0\.0\.1"):
        fetch(downloader, "http://both.example/a.png", tmp_path / "a")


def test_a_prompt_file_names_images_by_url(
    site: tuple[str, list[tuple[str, str, str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGEN_FETCH_NETWORKS", "127.0.0.0/8, ::1/128")
    line = '{"prompt": "x", "preset": "svd-xt", "image": "%s/%s"}\n'
    file = tmp_path / "p.jsonl"
    file.write_text(line % (site[0], "good.png?t=1") * 2, "utf-8")
    submission = parse(file, overrides={}, settings=Settings())
    (stored,) = submission.inputs.values()
    assert stored.read() == PICTURE
    assert submission.jobs[0].spec.image == stored.ref
    assert stored.name == f"{site[0]}/good.png"
    assert len(site[1]) == 1

    file.write_text(line % (site[0], "liar") + line % (site[0], "nothing"), "utf-8")
    with pytest.raises(InputError) as caught:
        parse(file, overrides={}, settings=Settings())
    assert [(problem.line, problem.field) for problem in caught.value.problems] == [(1, "image"), (2, "image")]
    assert "is not a PNG, JPEG or WebP image" in str(caught.value)
    assert "status 404" in str(caught.value)


def test_what_was_fetched_goes_when_nobody_holds_it(
    downloader: Downloader, site: tuple[str, list[tuple[str, str, str]]], tmp_path: Path
) -> None:
    collector = InputCollector(tmp_path, (), lambda: downloader)
    (stored,) = [collector.stored[collector.resolve(f"{site[0]}/good.png").sha256]]
    path = stored.path
    assert path is not None
    del collector
    assert stored.read() == PICTURE
    del stored
    assert not path.exists()
