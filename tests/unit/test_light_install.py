"""What submits, serves out results and looks after a line imports nothing that only makes or scores clips."""

import base64
import io
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image, ImageCms
from websockets.sync.client import connect

from cli.main import run
from pipeline import extras
from pipeline.errors import NotInstalledError

ROOT = Path(__file__).parents[2]
LIGHT = """
submit prompts.txt --preset tiny-wan
submit prompts.txt --dry-run
submit pictures.jsonl --dry-run
submit prompts.txt --again --score checks --gate checks
status
status --json
list
list latest
show JOB
events latest
results
results --urls --expires 1h
report
pause latest
resume latest
cancel latest
retry latest
budget latest --max-gpu-hours 2
workers
keys create someone
keys list
db check
db upgrade
models list
models show tiny-wan
config
sweep --dry-run
doctor
rerun JOB
"""
"""Commands of people who have no model on their machine; JOB is a job of the first batch."""
REFUSE = """
import sys
from importlib.machinery import ModuleSpec

class Refuse:
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name.partition(".")[0] in REFUSED else None

    def create_module(self, spec):
        raise ModuleNotFoundError(f"refused: {spec.name}", name=spec.name)

    def exec_module(self, module):
        raise NotImplementedError

REFUSED = frozenset(sys.argv[1].split(","))
sys.meta_path.insert(0, Refuse())
"""
PROGRAM = f"""{REFUSE}
import vgen
from cli.main import run
from pipeline import extras

vgen.connect
extras._installed = lambda distribution: False

job = ""
for line in sys.stdin:
    code = run([job if word == "JOB" else word for word in line.split()])
    print("ended", code, "refused" if any(name in sys.modules for name in REFUSED) else "light", line.strip())
    if not job:
        from db.models import Job
        from db.session import Database
        from pipeline.settings import load_settings
        with Database(load_settings().effective_database_url).reading() as session:
            job = session.query(Job.id).first()[0]
"""
SERVE_ALONE = f"""{REFUSE}
import sys
from cli.main import run
from pipeline import extras

extras._installed = lambda distribution: distribution in sys.argv[2].split(",")
sys.exit(run(["serve", "--mock", "--port", "0"]))
"""
_MODULES = {"fasttext-predict": "fasttext", "python-multipart": "python_multipart"}


def brought_by_extras(*, but: str = "") -> set[str]:
    """The modules that only extras install: what an installation without them, or with only one, cannot import."""
    brought = distributions()
    extra = {name for each, names in brought.items() if each != "dev" for name in names}
    return {_MODULES.get(name, name.replace("-", "_")) for name in extra - brought[""] - brought.get(but, set())}


def distributions() -> dict[str, set[str]]:
    """What each extra brings; under an empty name what is always installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lists = {"": project["dependencies"], **project["optional-dependencies"]}
    return {extra: {_name(line) for line in lines} for extra, lines in lists.items()}


def _name(requirement: str) -> str:
    return re.split(r"[\[<>=;\s]", requirement)[0]


def test_light_commands_import_nothing_that_only_extras_install(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red fox\na lighthouse --seed 3\n", "utf-8")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (64, 48), "teal").save(tmp_path / "first.jpg", icc_profile=profile)
    (tmp_path / "pictures.jsonl").write_text('{"prompt": "x", "preset": "svd-xt", "image": "first.jpg"}\n', "utf-8")
    refused = brought_by_extras()
    assert {"torch", "diffusers", "transformers", "av", "imageio_ffmpeg", "fastapi"} <= refused

    done = subprocess.run(
        _python(PROGRAM, refused),
        input=LIGHT.strip(),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=110,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    ends = re.findall(r"^ended (\d+) (\w+) (.*)$", done.stdout, re.MULTILINE)
    assert [line for *_, line in ends] == LIGHT.strip().splitlines()
    expected = {"doctor": "1"}  # in solo mode it says that nothing here makes clips
    wrong = [line for code, kind, line in ends if (code, kind) != (expected.get(line, "0"), "light")]
    assert not wrong, done.stderr


def test_a_mock_streams_where_the_serve_extra_alone_is_installed(tmp_path: Path) -> None:
    refused = brought_by_extras(but="serve")
    assert {"torch", "diffusers", "transformers"} <= refused
    assert not {"av", "imageio_ffmpeg", "fastapi"} & refused
    command = _python(SERVE_ALONE, refused, distributions()["serve"])

    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as server:
        try:
            assert server.stderr is not None
            said = server.stderr.readline()
            address = re.search(r"http://(127\.0\.0\.1:\d+) \(mock", said)
            assert address is not None, said + server.stderr.read()
            received = _streamed(address[1])
        finally:
            server.terminate()

    assert received[-1] == "ltx2_stream_complete"
    assert received.count("fragment") >= 2


def _streamed(address: str) -> list[str]:
    """The kinds of what a session of one segment with a picture sends."""
    picture = io.BytesIO()
    Image.new("RGB", (64, 48), "teal").save(picture, "PNG")
    image = {"type": "image", "mime": "image/png", "data": base64.b64encode(picture.getvalue()).decode()}
    received: list[str] = []
    with connect(f"ws://{address}/v1/stream") as socket:
        socket.send(json.dumps({"type": "session_init_v2", "single_clip_mode": True, "initial_image": image}))
        socket.send(json.dumps({"type": "segment_prompt_source", "prompt": "a fox"}))
        for message in socket:
            received.append("fragment" if isinstance(message, bytes) else json.loads(message)["type"])
    return received


def _python(program: str, *names: set[str]) -> list[str]:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{program}"
    return [sys.executable, "-P", "-c", code, *(",".join(sorted(each)) for each in names)]


@pytest.mark.parametrize(
    ("arguments", "module", "extra"),
    [
        (["eval", "compare", "a", "b"], "av", "eval"),
        (["serve"], "uvicorn", "serve"),
        (["run"], "torch", "generate"),
        (["worker"], "transformers", "generate"),
    ],
)
def test_a_missing_module_is_answered_with_the_extra_that_brings_it(
    arguments: list[str], module: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(self: object, name: str) -> object:
        raise ModuleNotFoundError(f"No module named {module!r}", name=f"{module}.part")

    monkeypatch.setattr("cli.command_table._Commands.__getitem__", missing)  # others may have loaded it

    assert run(arguments) == 2
    shown = capsys.readouterr().err
    assert f"`vgen {arguments[0]}` needs {module}" in shown
    assert f"pip install 'vgen[{extra}]'" in shown
    assert "Traceback" not in shown


def test_a_module_that_no_extra_brings_is_a_bug_and_not_an_installation() -> None:
    assert extras.missing_module("db.nowhere", purpose="this") is None


def test_what_an_extra_lacks_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "_installed", lambda distribution: distribution not in ("torch", "uvicorn"))

    assert not extras.installed()["generate"]
    with pytest.raises(NotInstalledError, match=r"clips is not installed here: pip install 'vgen\[generate,serve\]'"):
        extras.require("generate", "serve", purpose="what makes clips")


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    pinned = {
        re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower()
        for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    }

    assert {_name(line).lower() for lines in lists for line in lines} - {"vgen"} <= pinned
