"""Stars, notes and votes over HTTP and by forms, and their exports, whatever a stranger wrote."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from db.models import Event
from service import keys
from service.keys import KeyRule
from tests.db_fixtures import sqlite_template
from tests.unit.server.test_pages import HARMLESS, HOSTILE, LINES, Site, Structure, open_site, token

__all__ = ["open_site", "sqlite_template"]
Sites = Callable[..., Site]


def made(site: Site, owner: str = "ada", text: str = HARMLESS) -> list[str]:
    """Two clips of one prompt; their ids."""
    lines = [{**LINES[0], "prompt": f"{text}", "seed": seed, "custom_id": f"{seed}"} for seed in (1, 2)]
    batch_id = site.line.submit(*lines, owner=owner, again=True)
    ids = [f"{batch_id}-{number:06}" for number in range(2)]
    for job_id in ids:
        site.line.finish_job(job_id)
    return ids


def with_key(site: Site, owner: str, *scopes: str) -> TestClient:
    client = site.browser(KeyRule.ALWAYS)
    client.headers["authorization"] = f"Bearer {site.key(owner, *scopes)}"
    return client


def export(client: TestClient, job_id: str, form: str = "json") -> Any:
    answer = client.get(f"/api/v1/batches/{job_id.partition('-')[0]}/votes", params={"format": form})
    assert answer.status_code == 200, answer.text
    return answer.text if form == "csv" else answer.json()


def test_a_rating_and_a_vote_are_told_back_and_replaced(open_site: Sites) -> None:
    site = open_site()
    one, two = made(site)
    client = with_key(site, "ada")
    rated = client.patch(f"/api/v1/jobs/{one}/rating", json={"stars": 4, "note": " fine \r\n tail"})
    assert (rated.json()["stars"], rated.json()["note"], rated.json()["rater"]) == (4, "fine \n tail", "ada")
    assert client.patch(f"/api/v1/jobs/{one}/rating", json={"note": None}).json()["stars"] == 4
    for preferred in (one, two):
        vote = client.post("/api/v1/votes", json={"first": one, "second": two, "preferred": preferred})
        assert vote.json()["preferred"] == preferred

    told = export(client, one)
    assert [(clip["job_id"], clip["stars"], clip["won"], clip["lost"]) for clip in told["clips"]] == [
        (one, 4.0, 0, 1), (two, None, 1, 0),
    ]  # fmt: skip
    assert [vote["preferred"] for vote in told["votes"]] == [two]
    with site.database.reading() as session:
        of = session.scalars(select(Event).where(Event.kind.in_(("clip_rated", "vote_cast")))).all()
        known = {key.id for key in keys.api_keys.all_keys(session)}
    assert {event.data["by"] for event in of} == {"ada"}
    assert all(event.data["by_key"] in known for event in of)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "give stars, a note, or both"),
        ({"stars": 6}, "6 is not a number of stars: use 1 to 5"),
        ({"stars": 0}, "0 is not a number of stars"),
        ({"stars": "many"}, "stars"),
        ({"note": "x" * 4001}, "at most 4000"),
        ({"star": 1}, "did you mean"),
    ],
)
def test_a_wrong_rating_is_refused_with_what_is_wrong(open_site: Sites, body: dict[str, Any], said: str) -> None:
    site = open_site()
    answer = with_key(site, "ada").patch(f"/api/v1/jobs/{made(site)[0]}/rating", json=body)
    assert (answer.status_code, said in answer.text) == (400, True), answer.text


def test_a_wrong_vote_and_a_wrong_form_are_refused_with_what_is_wrong(open_site: Sites) -> None:
    site = open_site()
    one, two = made(site)
    client = with_key(site, "ada")
    for body, said in (
        ({"first": one, "second": one, "preferred": one}, "name two"),
        ({"first": one, "second": two, "preferred": "x"}, "neither of the two"),
        ({"first": one, "second": two}, "preferred"),
    ):
        answer = client.post("/api/v1/votes", json=body)
        assert (answer.status_code, said in answer.text) == (400, True), answer.text
    answer = client.get(f"/api/v1/batches/{one.partition('-')[0]}/votes", params={"format": "xml"})
    assert (answer.status_code, "use one of json, csv" in answer.text) == (400, True)


def test_owners_see_and_judge_their_own_and_scopes_hold(open_site: Sites) -> None:
    site = open_site()
    (one, two), (other, _) = made(site), made(site, "bob", "a secret of bob")
    ada, bob, boss = with_key(site, "ada"), with_key(site, "bob"), with_key(site, "boss", "admin")
    reader = with_key(site, "ada", "videos.read")
    assert bob.patch(f"/api/v1/jobs/{one}/rating", json={"stars": 1}).status_code == 404
    assert bob.post("/api/v1/votes", json={"first": other, "second": two, "preferred": None}).status_code == 404
    assert reader.patch(f"/api/v1/jobs/{one}/rating", json={"stars": 1}).status_code == 403
    assert (
        with_key(site, "ada", "votes.write").patch(f"/api/v1/jobs/{one}/rating", json={"stars": 2}).status_code == 200
    )
    assert bob.get(f"/api/v1/batches/{one.partition('-')[0]}/votes").status_code == 404

    # Of a vote between the clips of two owners neither is told the other's clip
    vote = boss.post("/api/v1/votes", json={"first": one, "second": other, "preferred": other})
    assert vote.status_code == 200
    told = export(ada, one)
    assert ([clip["job_id"] for clip in told["clips"]], told["votes"]) == ([one], [])
    assert "secret" not in json.dumps(told)
    assert len(export(boss, one)["votes"]) == 1


def test_hostile_text_changes_no_export(open_site: Sites) -> None:
    site = open_site()
    client = with_key(site, "ada")
    before, after = made(site), made(site, text=HOSTILE)
    for (one, two), note in ((before, "plain"), (after, HOSTILE), (after, "=1+1")):
        client.patch(f"/api/v1/jobs/{one}/rating", json={"stars": 3, "note": note})
        client.post("/api/v1/votes", json={"first": one, "second": two, "preferred": one})

    harmless, hostile = (list(csv.DictReader(io.StringIO(export(client, ids[0], "csv")))) for ids in (before, after))
    assert len(harmless) == len(hostile) == 2
    assert hostile[0]["note"] == "'=1+1"
    for row in hostile:
        assert None not in row
        for cell in row.values():
            assert not cell.lstrip().startswith(("=", "+", "-", "@")), cell
            assert not re.search("[\u202a-\u202e\u2066-\u2069]", cell)
    for form in ("json", "fiftyone", "label-studio", "label-studio-pairs"):
        assert HOSTILE in _texts(export(client, after[0], form)), form


def _texts(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set().union(*map(_texts, value.values())) if value else set()
    if isinstance(value, list):
        return set().union(*map(_texts, value)) if value else set()
    return {value} if isinstance(value, str) else set()


def test_the_exports_have_the_shapes_that_the_tools_load(open_site: Sites) -> None:
    site = open_site()
    one, two = made(site)
    client = with_key(site, "ada")
    client.patch(f"/api/v1/jobs/{one}/rating", json={"stars": 4, "note": "fine"})
    client.post("/api/v1/votes", json={"first": two, "second": one, "preferred": two})

    dataset = export(client, one, "fiftyone")
    assert dataset["media_type"] == "video"
    samples = {sample["job"]: sample for sample in dataset["samples"]}
    assert samples[one]["filepath"].endswith(f"/v1/videos/{one}/content")
    assert (samples[one]["stars"], samples[two]["won"], samples[one]["notes"]) == (4.0, 1, "ada: fine")
    own = {"filepath", "tags", "_media_type", "frames"}  # what every sample has, without a field of the dataset
    assert all(set(sample) - own == set(dataset["sample_fields"]) for sample in samples.values())

    (rated, _) = export(client, one, "label-studio")
    assert [(part["type"], part["value"]) for part in rated["annotations"][0]["result"]] == [
        ("rating", {"rating": 4}), ("textarea", {"text": ["fine"]}),
    ]  # fmt: skip
    (pair,) = export(client, one, "label-studio-pairs")
    assert (pair["data"]["job_id1"], pair["data"]["job_id2"]) == (one, two)
    (choice,) = pair["annotations"][0]["result"]
    assert (choice["type"], choice["value"], choice["to_name"]) == ("pairwise", {"selected": "right"}, "video1,video2")


def test_forms_of_wall_page_and_comparison_store_what_is_chosen(open_site: Sites) -> None:
    site = open_site()
    one, two = made(site)
    browser = site.signed_in(site.key("ada"))
    wall = f"/batches/{one.partition('-')[0]}?sort=stars"
    held = token(browser.get(wall).text)

    rated = browser.post("/rate", data={"token": held, "rate": f"{two} 5", "back": wall})
    assert (rated.status_code, rated.headers["location"]) == (303, f"{wall}#clip-{two}")
    noted = browser.post(f"/jobs/{two}/rate", data={"token": held, "note": "the best\nof all"})
    assert "Your stars and note are stored" in browser.get(noted.headers["location"]).text
    page = browser.get(wall).text
    assert page.index(f'id="clip-{two}"') < page.index(f'id="clip-{one}"')
    assert "the best" in page
    assert page.count('aria-pressed="true"') == 5
    assert f'value="{two} 0"' in page
    assert browser.get(f"{wall}&stars=5").text.count('class="card ') == 1

    compare = f"/compare?job={one}&job={two}"
    assert "The left is better" in browser.get(compare).text
    voted = browser.post("/vote", data={"token": held, "job": [one, two], "best": one, "back": compare})
    assert (voted.status_code, voted.headers["location"]) == (303, compare)
    assert "your choice" in browser.get(compare).text
    assert "won 1 of 1 vote" in browser.get(compare).text
    browser.post("/vote", data={"token": held, "job": [one, two], "best": "", "back": "https://evil.example"})
    assert "your choice" not in browser.get(compare).text
    for data in ({"job": [one]}, {"job": [one, two], "best": "x"}, {"rate": "x"}):
        path = "/rate" if "rate" in data else "/vote"
        assert browser.post(path, data={"token": held, **data}).status_code in (400, 404), data
    assert browser.post("/rate", data={"rate": f"{two} 1"}).status_code == 403


def test_what_a_note_says_changes_no_page(open_site: Sites) -> None:
    site = open_site()
    one, two = made(site)
    client, browser = with_key(site, "ada"), site.signed_in(site.key("ada"))
    boss = with_key(site, "boss", "admin")
    paths = [f"/batches/{one.partition('-')[0]}", f"/jobs/{one}", f"/compare?job={one}&job={two}", "/search?q=fox"]
    shown = list[list[str]]()
    for note in ("plain", HOSTILE):
        for judge in (client, boss):
            assert judge.patch(f"/api/v1/jobs/{one}/rating", json={"note": note}).status_code == 200
        shown.append([browser.get(path).text for path in paths])
    for path, before, after in zip(paths, *shown, strict=True):
        # The form that hands a note back holds it as it is, where nothing else can be turned.
        outside = re.sub(r'(<textarea.*?</textarea>|data-note=".*?")', "", after, flags=re.DOTALL)
        assert not re.search("[\u202a-\u202e\u2066-\u2069]", outside), path
        # Events are in the job's timeline, and there is one more of each judge.
        tags = [
            [tag for tag in Structure(text).tags if tag[0] not in ("tr", "td", "bdi", "time")]
            for text in (before, after)
        ]
        assert tags[0] == tags[1], path


def test_who_may_only_look_has_no_forms(open_site: Sites) -> None:
    site = open_site()
    one, two = made(site)
    browser = site.signed_in(site.key("ada", "videos.read"))
    for path in (f"/batches/{one.partition('-')[0]}", f"/jobs/{one}", f"/compare?job={one}&job={two}"):
        page = browser.get(path)
        assert (page.status_code, 'action="/rate"' in page.text, 'action="/vote"' in page.text) == (200, False, False)
        assert "/rate" not in page.text
    held = token(browser.get("/").text)
    assert browser.post("/rate", data={"token": held, "rate": f"{two} 1"}).status_code == 403
