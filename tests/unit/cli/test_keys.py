"""`vgen keys`: made, listed and revoked; shown whole once, stored as a digest."""

import re
from pathlib import Path

import pytest
from sqlalchemy import select

from db.models import ApiKey, Event
from db.session import Database
from pipeline.digests import sha256_hex
from service import keys
from service.keys import KeyRefusedError
from tests.unit.cli.conftest import Home, Vgen


def test_a_key_is_shown_once_and_stored_as_a_digest(home: Home, vgen: Vgen) -> None:
    made = vgen("keys", "create", "ci", "--owner", "ada", "--expires", "+90d", "--json").json

    assert re.fullmatch(r"vgen_sk_[a-z0-9]{8}_[0-9a-f]{64}", made["secret"])
    assert made["key"]["scopes"] == list(keys.DEFAULT_SCOPES)
    assert made["key"]["owner"] == "ada"
    database = home.database()
    with database.reading() as session:
        row = session.scalars(select(ApiKey)).one()
    assert row.secret_sha256 == sha256_hex(made["secret"].rpartition("_")[2])
    assert row.expires_at is not None
    assert row.expires_at - row.created_at == pytest.approx(90 * 86_400_000, abs=2_000)
    listed = vgen("keys", "list", "--json")
    assert made["secret"].rpartition("_")[2] not in listed.out
    assert listed.json["keys"] == [made["key"]]
    assert keys.verify(database, made["secret"]).owner == "ada"
    database.close()


def test_the_key_alone_goes_to_stdout(home: Home, vgen: Vgen) -> None:
    outcome = vgen("keys", "create", "ci", "--scope", "videos.read", "--scope", "metrics.read")

    assert re.fullmatch(r"vgen_sk_\w{8}_[0-9a-f]{64}\n", outcome.out)
    assert "may videos.read, metrics.read" in outcome.err
    assert vgen("keys", "list").rows[0][1] == "ci"


def test_a_revoked_key_opens_nothing_and_is_still_listed(home: Home, vgen: Vgen) -> None:
    made = vgen("keys", "create", "ci", "--json").json
    key_id = made["key"]["id"]

    assert vgen("keys", "revoke", key_id, "--json").json == {"revoked": [key_id], "unchanged": []}
    assert vgen("keys", "revoke", key_id, "--json").json == {"revoked": [], "unchanged": [key_id]}

    database = home.database()
    with pytest.raises(KeyRefusedError, match="revoked"):
        keys.verify(database, made["secret"])
    with database.reading() as session:
        told = [
            (event.kind, event.data["key"])
            for event in session.scalars(select(Event).order_by(Event.id))
            if event.kind.startswith("api_key")
        ]
    database.close()
    assert told == [("api_key_created", key_id), ("api_key_revoked", key_id)]
    assert vgen("keys", "list", "--json").json["keys"][0]["revoked_at"] is not None


def test_the_last_use_is_written_once_a_minute(home: Home, vgen: Vgen) -> None:
    secret = vgen("keys", "create", "ci", "--json").json["secret"]
    database = home.database()

    def used_at() -> int | None:
        with database.reading() as session:
            return session.scalars(select(ApiKey.last_used_at)).one()

    assert used_at() is None
    keys.verify(database, secret)
    first = used_at()
    keys.verify(database, secret)
    assert used_at() == first
    with database.transaction() as session:
        session.scalars(select(ApiKey)).one().last_used_at = first - 60_001 if first else None
    keys.verify(database, secret)
    assert (used_at() or 0) >= (first or 0)
    database.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["create", "ci", "--scope", "video.read"],
            "--scope: 'video.read' is not a scope: did you mean 'videos.read'?",
        ),
        (["create", "ci", "--expires", "soon"], "--expires: 'soon' is not a valid time"),
        (["create", "ci", "--expires", "2001-01-01T00:00"], "--expires: '2001-01-01T00:00' is in the past"),
        (["create", "ci", "--owner", "a\nb"], "--owner: 'a\\nb' is not a valid owner"),
        (["create", ""], "NAME: is empty"),
        (["create", "x" * 101], "NAME: has 101 characters"),
        (["revoke", "nonesuch"], "key 'nonesuch' does not exist"),
    ],
)
def test_mistakes_are_said_and_nothing_is_stored(home: Home, vgen: Vgen, arguments: list[str], said: str) -> None:
    outcome = vgen("keys", *arguments)

    assert outcome.code == 2
    assert said in outcome.err
    assert vgen("keys", "list", "--json").json == {"keys": []}


def test_all_mistakes_are_said_at_once(home: Home, vgen: Vgen) -> None:
    outcome = vgen("keys", "create", "", "--scope", "all", "--expires", "never")

    assert all(name in outcome.err for name in ("NAME", "--scope", "--expires"))


def test_a_first_key_makes_the_home(tmp_path: Path, vgen: Vgen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGEN_HOME", str(tmp_path / "new"))

    assert vgen("keys", "create", "ci").code == 0
    assert Database(f"sqlite:///{tmp_path}/new/vgen.sqlite3").damage() is None


def test_quotas_are_given_changed_and_taken_away_and_mistakes_are_named(home: Home, vgen: Vgen) -> None:
    made = vgen("keys", "create", "ci", "--max-active-jobs", "5", "--max-daily-gpu-seconds", "0.5", "--json").json[
        "key"
    ]
    names = ("max_active_jobs", "max_daily_clips", "max_daily_gpu_seconds")
    assert [made[name] for name in names] == [5, None, 0.5]

    limited = vgen("keys", "limit", made["id"], "--max-daily-clips", "9", "--max-active-jobs", "none", "--json").json
    assert [limited[name] for name in names] == [None, 9, 0.5]
    assert [vgen("keys", "list", "--json").json["keys"][0][name] for name in names] == [None, 9, 0.5]

    for words, complaint in (
        (["--max-active-jobs", "0"], "--max-active-jobs: 0 is not possible"),
        (["--max-daily-clips", "many"], "--max-daily-clips: 'many' is not a whole number"),
        (["--max-daily-gpu-seconds", "nan"], "--max-daily-gpu-seconds: nan is not possible"),
    ):
        refused = vgen("keys", "limit", made["id"], *words)
        assert (refused.code, complaint in refused.err) == (2, True), refused.err
        assert vgen("keys", "create", "x", *words).code == 2
    assert vgen("keys", "limit", "zzzzzzzz").code == 2
