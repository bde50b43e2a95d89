"""Every reader of videos opens them by content alone: no name, playlist or special file leads FFmpeg anywhere else."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from pipeline.encoding import join, sound
from pipeline.encoding.probe import has_sound, probe
from pipeline.errors import InputError, RefusedError, RetryableError
from pipeline.inputs.videos import check_video, read_video
from pipeline.media.opening import UnreadableMediaError
from pipeline.scoring import checks
from pipeline.scoring.clip import Clip, read_clip
from pipeline.scoring.exchange import ManifestClip, export
from pipeline.scoring.metric import Context
from pipeline.scoring.suite import Suite, SuiteEntry
from tests.videos import write_video

SUITE = Suite((SuiteEntry(0, "a box", ("scene",), {}),), "0" * 64)


def exported(path: Path) -> object:
    return export([ManifestClip(path, 0, 1)], SUITE, ["scene"], path.parent / "out")


def loudness(path: Path) -> object:
    clip = read_clip(path)  # whatever the name, the program reads the same file as the library
    score = checks.loudness(Clip(path, clip.frames, clip.fps, True), Context(None, None, None, {}, None))  # type: ignore[arg-type]
    assert "No such file" not in (score.reason or "")
    return score


def decoded_sound(path: Path) -> object:
    return sound.decode(path, path.with_name("raw"), fps=8, num_frames=5, check=lambda: None)


READERS: dict[str, Callable[[Path], object]] = {
    "eval run": read_clip,
    "eval export": exported,
    "checks.loudness": loudness,
    "submit": lambda path: check_video(path, "v"),
    "worker": lambda path: list(read_video(path)),
    "probe": probe,
    "has_sound": has_sound,
    "pictures": lambda path: join.decoded_frames(path, [0]),
    "join": lambda path: join.join([path], [5], path.with_name("joined.mp4"), metadata={}),
}
REFUSALS = (RefusedError, RetryableError, InputError, UnreadableMediaError, ValueError)


@pytest.fixture(scope="module")
def _template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("media") / "ok.mp4"
    return write_video(path, [Image.new("RGB", (48, 32), (40 * n, 80, 80)) for n in range(5)])


@pytest.fixture
def video(tmp_path: Path, _template: Path) -> Path:
    return Path(shutil.copyfile(_template, tmp_path / "ok.mp4"))


@pytest.fixture
def site(video: Path) -> Iterator[tuple[str, list[str]]]:
    """An address that gives a video, and whoever asked for it."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(video.read_bytes())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
        server.shutdown()
        thread.join()


PLAYLISTS = {
    "ffconcat": "ffconcat version 1.0\nfile {target}\n",
    "concat": "file '{target}'\nfile '{target}'\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n",
    "hls of playlists": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{target}\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT1S"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1" '
    'bandwidth="1"><BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>',
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "reference": "[Reference]\nRef1={target}\n",
    "asx": '<asx version="3.0"><entry><ref href="{target}"/></entry></asx>',
}


@pytest.mark.parametrize("ending", ["mp4", "m3u8"])
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_playlist_is_not_followed_whatever_its_name(
    tmp_path: Path, site: tuple[str, list[str]], kind: str, ending: str
) -> None:
    address, seen = site
    for number, target in enumerate(("ok.mp4", str(tmp_path / "ok.mp4"), f"{address}/x.mp4")):
        path = tmp_path / f"{number}.{ending}"
        path.write_text(PLAYLISTS[kind].format(target=target), "utf-8")
        for name in ("eval run", "submit", "worker", "probe"):
            with pytest.raises(REFUSALS):
                READERS[name](path)
    assert seen == []


@pytest.mark.parametrize("reader", READERS)
def test_no_reader_follows_a_renamed_playlist(tmp_path: Path, video: Path, reader: str) -> None:
    path = tmp_path / "clip.mp4"
    path.write_text("ffconcat version 1.0\nfile ok.mp4\n", "utf-8")
    with pytest.raises(REFUSALS, match=r"no format|not an MP4"):
        READERS[reader](path)


@pytest.mark.parametrize("name", ["http:/{0}/x.mp4", "http://{0}/x.mp4", "tcp:{0}", "concat:ok.mp4|ok.mp4"])
@pytest.mark.parametrize("reader", READERS)
def test_an_address_is_the_name_of_a_file_that_is_not_there(
    tmp_path: Path, video: Path, site: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, reader: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(name.format(site[0].removeprefix("http://")))
    with pytest.raises(REFUSALS, match=r"No such file|not an \.mp4"):
        READERS[reader](path)
    assert site[1] == []


@pytest.mark.parametrize(
    "name",
    [
        "-i.mp4",
        "http:x.mp4",
        "file:ok.mp4",
        "pipe:0.mp4",
        "x%03d.mp4",
        "*.mp4",
        "a|b.mp4",
        "ночь 夜 &.mp4",
        "x\ny'.mp4",
    ],
)
@pytest.mark.parametrize("reader", READERS)
def test_a_name_means_nothing_to_ffmpeg(
    tmp_path: Path, video: Path, monkeypatch: pytest.MonkeyPatch, reader: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(video, name)
    READERS[reader](Path(name))


@pytest.mark.parametrize("reader", READERS)
def test_what_is_not_a_regular_file_is_refused_at_once(tmp_path: Path, reader: str) -> None:
    pipe, zero = tmp_path / "pipe.mp4", tmp_path / "zero.mp4"
    os.mkfifo(pipe)
    zero.symlink_to("/dev/zero")
    (tmp_path / "folder.mp4").mkdir()
    for path, kind in ((pipe, "a pipe"), (zero, "a device"), (tmp_path / "folder.mp4", "a folder")):
        with pytest.raises(REFUSALS, match=kind):
            READERS[reader](path)


@pytest.mark.parametrize("reader", READERS)
def test_a_file_whose_bytes_cannot_be_read_is_refused(reader: str) -> None:
    with pytest.raises(REFUSALS):
        READERS[reader](Path("/proc/self/mem"))


@pytest.mark.parametrize(
    "ending", ["mkv", "webm", "avi", "mov", "ts", "flv", "ogv", "nut", "mpg", "gif", "apng", "y4m"]
)
def test_common_containers_are_scored(tmp_path: Path, ending: str) -> None:
    import av  # noqa: PLC0415

    codecs = {"webm": "libvpx-vp9", "ogv": "libvpx", "mpg": "mpeg2video", "gif": "gif", "apng": "apng"}
    codec = codecs.get(ending, "wrapped_avframe" if ending == "y4m" else "libx264")
    formats = {"webm": "yuv420p", "gif": "rgb8", "apng": "rgb24"}
    path = tmp_path / f"v.{ending}"
    with av.open(str(path), "w", format={"y4m": "yuv4mpegpipe", "ts": "mpegts"}.get(ending)) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, formats.get(ending, "yuv420p")
        for number in range(5):
            frame = av.VideoFrame.from_image(Image.new("RGB", (48, 32), (40 * number, 80, 80)))
            container.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
        container.mux(stream.encode(None))
    path = path.rename(tmp_path / "named-otherwise.bin")
    assert len(read_clip(path).frames) == 5
