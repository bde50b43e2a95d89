"""`vgen config` and `vgen doctor`."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import update

from db.models import Job
from tests.servers import Server, redis_command
from tests.unit.cli.conftest import Home, Vgen

pytestmark = pytest.mark.filterwarnings("ignore:autogenerate skipping metadata-specified:UserWarning")


def test_config_names_the_source_of_each_setting_and_masks_secrets(
    vgen: Vgen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given settings from every source
    (tmp_path / "vgen.toml").write_text('owner = "toml"\npreset = "mochi-1"\n[s3]\nregion = "eu-north-1"\n', "utf-8")
    (tmp_path / ".env").write_text("VGEN_PRESET=ltx-2\n", "utf-8")
    monkeypatch.delenv("VGEN_PRESET")
    monkeypatch.setenv("VGEN_S3_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("VGEN_DATABASE_URL", "postgresql+psycopg://someone:hidden@127.0.0.1/vgen")

    # When they are shown
    outcome = vgen("--home", tmp_path / "here", "config", "--json")

    # Then each has its source, the strongest one
    found = {row["name"]: row for row in outcome.json["settings"]}
    sources = {name: row["source"] for name, row in found.items()}
    assert sources["VGEN_HOME"] == "argument"
    assert sources["VGEN_S3_SECRET_ACCESS_KEY"] == "environment"
    assert sources["VGEN_PRESET"] == ".env"
    assert (sources["VGEN_OWNER"], sources["VGEN_S3_REGION"]) == ("vgen.toml", "vgen.toml")
    assert sources["VGEN_BROKER_URL"] == "default"
    assert found["VGEN_PRESET"]["value"] == "ltx-2"
    assert "hidden" not in outcome.out
    assert "someone" in found["VGEN_DATABASE_URL"]["value"]


def test_a_misspelt_variable_is_noticed(vgen: Vgen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGEN_STORGE", "x")

    assert "did you mean VGEN_STORAGE" in vgen("config").err


def test_a_wrong_setting_ends_with_2_and_is_named(vgen: Vgen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGEN_ENCODE_QUALITY", "900")

    outcome = vgen("status")

    assert outcome.code == 2
    assert "VGEN_ENCODE_QUALITY" in outcome.err


def test_doctor_finds_nothing_wrong_with_a_fresh_home(home: Home, vgen: Vgen) -> None:
    outcome = vgen("doctor", "--json")

    failed = [check for check in outcome.json["checks"] if check["result"] == "fail"]
    assert failed == []
    assert outcome.code == 0
    assert {"database", "schema", "accounts", "storage", "ffmpeg", "model"} <= {
        check["name"] for check in outcome.json["checks"]
    }


def test_doctor_tells_unreachable_services_from_other_failures(
    home: Home, vgen: Vgen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGEN_PRESET", "nonesuch")
    wrong = vgen("doctor", "--json")
    assert wrong.code == 1
    monkeypatch.setenv("VGEN_BROKER_URL", "redis://127.0.0.1:1/0")

    outcome = vgen("doctor", "--json")

    assert outcome.code == 4
    checks = {check["name"]: check for check in outcome.json["checks"] if check["result"] == "fail"}
    assert set(checks) == {"broker", "model"}
    assert "VGEN_BROKER_URL" in checks["broker"]["mend"]


def test_doctor_warns_of_a_redis_that_drops_messages(
    home: Home, vgen: Vgen, redis_server: Server, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGEN_BROKER_URL", redis_url)

    def policy() -> str:
        found = {check["name"]: check["result"] for check in vgen("doctor", "--json").json["checks"]}
        return str(found["broker memory"])

    redis_command(redis_server.port, "CONFIG SET maxmemory-policy allkeys-lru")
    try:
        assert policy() == "warn"
    finally:
        redis_command(redis_server.port, "CONFIG SET maxmemory-policy noeviction")
    assert policy() == "ok"


@pytest.mark.parametrize("verb", ["worker", "dispatcher", "flower"])
def test_the_verbs_of_a_cluster_are_refused_in_solo_mode(vgen: Vgen, verb: str) -> None:
    outcome = vgen(verb)

    assert outcome.code == 2
    assert "VGEN_BROKER_URL" in outcome.err


def test_flower_refuses_a_short_password(vgen: Vgen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGEN_BROKER_URL", "redis://127.0.0.1:1/0")

    assert vgen("flower", "--basic-auth", "a:b").code == 2


def test_doctor_and_db_check_tell_of_rows_that_break_a_rule(home: Home, vgen: Vgen) -> None:
    database = home.database()
    with database.transaction() as session:
        session.execute(update(Job).where(Job.id == home.job_ids[0]).values(cancel_requested=True))
    database.close()

    outcome = vgen("doctor", "--json")
    failed = [check for check in outcome.json["checks"] if check["result"] == "fail"]

    assert outcome.code == 1
    assert [check["name"] for check in failed] == ["accounts"]
    assert failed[0]["message"].startswith(f"cancel: {home.job_ids[0]} (")
    assert vgen("db", "check", "--json").json["problems"] == [failed[0]["message"]]


@pytest.mark.parametrize(
    "name", ["VGEN_DATABASE_URL", "VGEN_BROKER_URL", "VGEN_STORAGE", "VGEN_S3_ENDPOINT_URL", "VGEN_ENHANCE_PROVIDERS"]
)
@pytest.mark.parametrize(
    "value",
    [
        "postgresql+psycopg://me:hid/den@host/db", "redis://:hid@den@host/0", "redis://host/0?password=hidden#hidden",
        "s3://me:hidden@bucket", "http://hidden@host:9000", "redis://:hid den@one/0;redis://:hidden@two/0",
        "openai=https://hidden@host/v1,mine=https://host/v1?key=hidden", "amqp://me:hid%64en@host//",
    ],
)  # fmt: skip
def test_config_shows_no_secret_in_any_place(
    vgen: Vgen, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    outcome = vgen("config")

    assert outcome.code in (0, 2)  # 2: it is no broker's address at all
    assert "hid" not in outcome.out + outcome.err
    assert "den@" not in outcome.out + outcome.err


@pytest.mark.parametrize(
    "command",
    [
        ("config",), ("doctor",), ("status",), ("list",), ("run", "p.txt"), ("submit", "p.txt"), ("worker",), ("beat",),
        ("dispatcher",), ("flower",), ("health", "worker"), ("models", "list"), ("db", "upgrade"), ("sweep",),
        ("generate", "--config", "run.yaml"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("file", "text", "place"),
    [
        ("vgen.toml", "owner = ", "vgen.toml:1: "), ("vgen.toml", "[encode]\nquality = 900", "vgen.toml:2: "),
        (".env", "A=1\nVGEN_ENCODE_QUALITY=x", ".env:2: "), (".env", "\udcff", ".env:1: "),
    ],
)  # fmt: skip
def test_a_bad_settings_file_ends_every_command_with_its_line(
    vgen: Vgen, tmp_path: Path, command: tuple[str, ...], file: str, text: str, place: str
) -> None:
    (tmp_path / file).write_text(text, "utf-8", errors="surrogateescape")
    (tmp_path / "p.txt").write_text("a fox\n", "utf-8")
    (tmp_path / "run.yaml").write_text("request: {prompt: a fox}\n", "utf-8")

    outcome = vgen(*command)

    assert outcome.code == 2
    assert place in outcome.err
    assert "Traceback" not in outcome.err
