"""Every kind of process, started with somebody else's folder as the current one: nothing of that folder is run."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import urllib.error
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from db import schema
from db.session import Database
from tests.cluster import processes, wait_for
from tests.die_with_parent import dying_with_us
from tests.end_to_end.flower import get
from tests.servers import answers, free_port

SCRIPT = Path(sys.executable).with_name("vgen")
MODULES = (
    *("celery", "celeryconfig", "flowerconfig", "tasks", "cli", "db", "pipeline", "service", "vgen", "migrations"),
    *("json", "yaml", "redis", "kombu", "billiard", "sqlalchemy", "alembic", "psycopg", "click", "tornado", "flower"),
    *("torch", "numpy", "diffusers", "transformers", "PIL", "av", "multiprocessing", "encodings", "readline"),
    *("sitecustomize", "usercustomize", "vgen", "imageio_ffmpeg", "openai", "pickle", "socket", "random"),
)
RUN_S = 280
pytestmark = pytest.mark.timeout(300)
LOGIN = "me:long-one,enough"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder whose every file leaves a mark when it is run."""
    folder = tmp_path / "hostile"
    (folder / "tasks").mkdir(parents=True)
    trap = f"open({str(tmp_path / 'MARK')!r}, 'a').write(__name__ + chr(10))\n"
    for name in MODULES:
        (folder / f"{name}.py").write_text(trap, "utf-8")
    (folder / "tasks" / "__init__.py").write_text(trap, "utf-8")
    (folder / "prompts.txt").write_text("a red fox\n", "utf-8")
    (folder / "vgen.toml").write_text(
        'broker_url = "filesystem://"\ncache_dir = "cache"\npresets_dir = "presets"\n'
        '[enhance]\nproviders = ["openai=http://127.0.0.1:9/v1"]\n[fetch]\nnetworks = "0.0.0.0/0"\n',
        "utf-8",
    )
    (folder / ".env").write_text("VGEN_DATABASE_URL=sqlite:///theirs.sqlite3\nVGEN_UMASK=000\n", "utf-8")
    return folder


@pytest.fixture
def env(tmp_path: Path, redis_url: str) -> Iterator[dict[str, str]]:
    (tmp_path / "mine").mkdir()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    marked = {
        **inherited,
        "HOME": str(tmp_path / "mine"),
        "VGEN_HOME": str(tmp_path / "mine" / "home"),
        "VGEN_BROKER_URL": redis_url,
        "VGEN_DATABASE_URL": f"sqlite:///{tmp_path / 'mine' / 'rows.sqlite3'}",
        "VGEN_LOG_LEVEL": "INFO",
        "OPENAI_API_KEY": "sk-of-a-test-0123456789",
        "HOSTILE_TEST": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }
    yield marked
    for pid in processes(f"HOSTILE_TEST={tmp_path}"):
        os.kill(pid, signal.SIGKILL)


def marks(tmp_path: Path) -> str:
    mark = tmp_path / "MARK"
    return mark.read_text("utf-8") if mark.exists() else ""


def call(hostile: Path, env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, *arguments], cwd=hostile, env=env, capture_output=True, text=True, timeout=RUN_S, check=False
    )


def solo(env: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name not in ("VGEN_BROKER_URL", "VGEN_DATABASE_URL")}


def test_the_traps_work(hostile: Path, env: dict[str, str], tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "celery"], cwd=hostile, env=env, capture_output=True, check=False)

    assert "celery" in marks(tmp_path) or "__main__" in marks(tmp_path)


def test_a_solo_run_with_its_generator_and_encoder(hostile: Path, env: dict[str, str], tmp_path: Path) -> None:
    done = call(hostile, solo(env), "run", "prompts.txt", "--preset", "idle")

    assert done.returncode == 0, done.stderr
    assert marks(tmp_path) == ""
    assert done.stderr.count("vgen.toml:5: VGEN_ENHANCE_PROVIDERS is ignored") == 1
    assert sorted(path.name for path in hostile.iterdir() if path.suffix != ".py") == [
        *(".env", "prompts.txt", "tasks", "vgen.toml")
    ]


@pytest.mark.parametrize("verb", [("doctor",), ("submit", "prompts.txt", "--dry-run")])
def test_a_command(hostile: Path, env: dict[str, str], tmp_path: Path, verb: Sequence[str]) -> None:
    done = call(hostile, solo(env), *verb)

    assert marks(tmp_path) == ""
    assert "VGEN_FETCH_NETWORKS is ignored" in done.stderr
    assert "Traceback" not in done.stderr


def at_work(verb: str, mine: Path, port: int) -> bool:
    if verb == "flower":
        return answers(port)
    if verb == "beat":
        return any((mine / ".local" / "state" / "vgen").glob("beat-schedule*"))
    with contextlib.closing(sqlite3.connect(mine / "rows.sqlite3", timeout=30)) as rows:
        (count,) = rows.execute("SELECT count(*) FROM workers").fetchone()
    return bool(count >= (3 if verb == "worker" else 1))


@pytest.mark.parametrize("verb", ["worker", "dispatcher", "beat", "flower"])
def test_a_process_of_a_cluster(hostile: Path, env: dict[str, str], tmp_path: Path, verb: str) -> None:
    # Given a cluster's database, and one of its processes in the folder
    port = free_port()
    database = Database(env["VGEN_DATABASE_URL"])
    schema.upgrade(database)
    database.close()
    more = ["--port", str(port)] if verb == "flower" else []
    login = {"VGEN_FLOWER_BASIC_AUTH": LOGIN}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            dying_with_us([str(SCRIPT), verb, *more], signal.SIGTERM),
            cwd=hostile,
            env={**env, **login},
            stdout=log,
            stderr=log,
        )
    text = (tmp_path / "log").read_text

    # When it is at work
    try:
        wait_for(lambda: process.poll() is not None or at_work(verb, tmp_path / "mine", port), f"{verb} is at work")
        if verb == "flower":
            assert get(f"http://127.0.0.1:{port}/", LOGIN) != b""
            for login in (None, LOGIN.partition(",")[0]):  # Flower's own variable would be split at the comma
                with pytest.raises(urllib.error.HTTPError) as refused:
                    get(f"http://127.0.0.1:{port}/", login)
                refused.value.close()
        assert not [line for line in processes(f"HOSTILE_TEST={tmp_path}").values() if "enough" in line]
    finally:
        process.terminate()
        code = process.wait(60)

    # Then nothing of the folder was run, and it ended well
    assert marks(tmp_path) == ""
    assert code == 0, text()
    assert "VGEN_BROKER_URL is ignored" not in text()  # the environment's is stronger, so nothing was lost
