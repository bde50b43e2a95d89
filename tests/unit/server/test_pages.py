"""Pages as a browser gets them: who sees what, and that nothing that a stranger wrote acts in them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select, update
from starlette.testclient import TestClient

from db import browser_sessions
from db.clips import deletion
from db.evals import runs
from db.models import ArtifactRow, BrowserSession
from db.session import Database
from pipeline.settings import load_settings
from pipeline.spec import ScoreOptions
from pipeline.states import JobState, Stage
from pipeline.work import Outcome
from server.app import create_app
from service import keys
from service.keys import KeyRule
from tests.db_fixtures import sqlite_template
from tests.unit.db.line import Line, result_of
from tests.unit.server.routes import every_page

__all__ = ["sqlite_template"]
HOSTILE = (
    "<script>alert(1)</script>\"><img src=x onerror=alert(1)>' onmouseover='alert(1) \u202egnp.exe\u202c \u2066x\u2069 "
    '{{ 7*7 }} {% raw %} ${7*7} </textarea></title></style></script> =HYPERLINK("http://x";"y") &lt;b&gt; \u200f'
)
HARMLESS = "a fox"
LINES = [{"prompt": HARMLESS, "seed": 7, "labels": {"shot": "x"}, "custom_id": "one"}]


class Site:
    """A line, its rows, and browsers of it."""

    def __init__(self, home: Path, **settings: Any) -> None:
        self.settings = load_settings(home=home, **settings)
        self.database = Database(self.settings.effective_database_url)
        self.line = Line(self.database)
        self.line.worker()

    def browser(self, rule: KeyRule = KeyRule.ONCE_ANY_EXISTS) -> TestClient:
        app = create_app(self.settings, self.database, key_rule=rule)
        return TestClient(app, base_url="http://127.0.0.1:8000", follow_redirects=False)

    def key(self, owner: str, *scopes: str) -> str:
        return keys.create(
            self.database, name="t", owner=owner, scopes=scopes or keys.DEFAULT_SCOPES, expires=None, by="t"
        ).secret

    def signed_in(self, key: str) -> TestClient:
        browser = self.browser(KeyRule.ALWAYS)
        browser.get("/sign-in")
        assert (
            browser.post("/sign-in", data={"key": key, "token": token(browser.get("/sign-in").text)}).status_code == 303
        )
        return browser


@pytest.fixture
def open_site(tmp_path: Path, sqlite_template: Path) -> Iterator[Callable[..., Site]]:
    sites = list[Site]()
    url = load_settings(home=tmp_path).effective_database_url
    shutil.copyfile(sqlite_template, url.removeprefix("sqlite:///"))

    def opened(**settings: Any) -> Site:
        sites.append(Site(tmp_path, **settings))
        return sites[-1]

    yield opened
    for site in sites:
        site.database.close()


def token(html: str) -> str:
    held = re.search(r'name="token" value="([0-9a-f]{64})"', html)
    assert held is not None
    return held[1]


class Structure(HTMLParser):
    """The tags of a page with the names of their attributes, without any text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags = list[tuple[str, tuple[str, ...]]]()
        self.addresses = set[str]()
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag in ("ins", "del"):
            return  # as many as words that an enhancer changed
        self.tags.append((tag, tuple(name for name, _ in attributes)))
        self.addresses |= {str(value) for name, value in attributes if name in ("href", "src", "action")}


def paths(site: Site, batch_id: str, job_id: str) -> list[str]:
    """Each page that there is something on."""
    ids = {"batch_id": batch_id, "job_id": job_id}
    found = [
        page.at(**{name: ids[name] for name in page.parameters})
        for page in every_page()
        if page.method == "GET"
        and set(page.parameters) <= ids.keys()
        and not page.path.startswith(("/live", "/sign", "/compare"))
    ]
    return [
        *found,
        f"/batches/{batch_id}?view=prompts",
        f"/batches/{batch_id}?view=grid&by=label:shot",
        f"/compare?job={batch_id}-000000&job={batch_id}-000001",
        f"/compare?batch={batch_id}&batch={batch_id}",
        "/search?q=a",
        f"/evals/{evaluated(site, batch_id)}",
    ]


def _printable(text: str) -> str:
    """The text as a custom id may be, which is one plain line."""
    return "".join(filter(str.isprintable, text))[:120]


def made(site: Site, text: str) -> tuple[str, str]:
    """A batch of a blocked and a scored clip, with its evaluation, all of this text; the batch and the scored job."""
    lines = [
        {
            **LINES[0],
            "prompt": f"{text} {number}",
            "labels": {"shot": text[:250]},
            "custom_id": f"{_printable(text)} {number}",
        }
        for number in (1, 2)
    ]
    batch_id = site.line.submit(*lines, again=True, score=ScoreOptions(metrics=("checks",)))
    blocked = site.line.go_on(f"{batch_id}-000000", Stage.SCREEN)
    site.line.finish(blocked, result_of(blocked, Outcome.BLOCKED))
    site.line.finish_job(f"{batch_id}-000001")
    with site.database.transaction() as session:
        run_id = runs.open_run(session, batch_id, kind="nightly", metrics=("checks.black",))
        runs.close_run(session, run_id, complete=True)
        said = {"meaning": text, "advice": text, "slower": [text], "baseline": "e1night"}
        runs.add_verdict(session, run_id, {"state": "regressed", **said, "reports": {"html": "reports/e1/report.html"}})
        runs.accept(session, run_id, by=text, reason=text)
    return batch_id, f"{batch_id}-000001"


def evaluated(site: Site, batch_id: str) -> str:
    """The evaluation run of a batch that was made here."""
    with site.database.reading() as session:
        return runs.runs(session, batch_id=batch_id)[0].id


def test_what_strangers_write_changes_no_page(open_site: Callable[..., Site]) -> None:
    site = open_site()
    browser = site.browser()
    harmless = {path: browser.get(path) for path in paths(site, *made(site, HARMLESS))}
    assert {answer.status_code for answer in harmless.values()} == {200}, harmless
    hostile = [browser.get(path) for path in paths(site, *made(site, HOSTILE))]
    for (path, before), after in zip(harmless.items(), hostile, strict=True):
        assert after.status_code == 200, path
        assert not re.search("[\u202a-\u202e\u2066-\u2069]", after.text), path
        if path not in ("/", "/search?q=a", "/workers", "/evals"):  # others are on these, or none any more
            assert Structure(after.text).tags == Structure(before.text).tags, path


def test_an_evaluation_shows_its_verdict_its_report_and_who_accepted_it(open_site: Callable[..., Site]) -> None:
    site = open_site()
    run_id = evaluated(site, made(site, HARMLESS)[0])
    browser = site.browser()
    shown, listed = (re.sub(r"<[^>]*>", "", browser.get(path).text) for path in (f"/evals/{run_id}", "/evals"))
    for sentence in (
        *("Verdict: regressed, accepted by a fox: a fox", "a fox Next: a fox.", "Slower than usual: a fox."),
        *("Compared with: e1night", "reports/e1/report.html"),
    ):
        assert sentence in shown
    assert "regressed, accepted" in listed


def test_no_page_has_script_or_style_in_it_and_each_says_so(open_site: Callable[..., Site]) -> None:
    site = open_site()
    browser = site.browser()
    answers = [browser.get(path) for path in (*paths(site, *made(site, HARMLESS)), "/sign-in", "/batches/none")]
    loaded = set[str]()
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert {"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"} <= set(policy.split("; "))
        assert answer.headers["x-content-type-options"] == "nosniff"
        structure = Structure(answer.text)
        assert not [names for tag, names in structure.tags if {"style", "onclick", "onerror"} & set(names)]
        assert not [tag for tag, names in structure.tags if tag == "style" or (tag == "script" and "src" not in names)]
        assert all(address.startswith(("/", "#")) for address in structure.addresses)
        loaded |= {address for address in structure.addresses if address.startswith("/static/")}
    assert {"text/css", "text/javascript"} <= {
        browser.get(address).headers["content-type"].partition(";")[0] for address in loaded
    }
    assert all("immutable" in browser.get(address).headers["cache-control"] for address in loaded)


def test_nobody_sees_a_page_without_a_key_and_each_owner_its_own(open_site: Callable[..., Site]) -> None:
    site = open_site()
    batch_id, job_id = made(site, HARMLESS)
    stranger = site.browser(KeyRule.ALWAYS)
    ids = {"batch_id": batch_id, "job_id": job_id, "kind": "video", "name": "vgen.css"}
    for route in every_page():
        if route.path.startswith(("/static", "/sign-in")):
            continue
        answer = stranger.request(route.method, route.at(**dict.fromkeys(route.parameters, "x") | ids))
        assert answer.status_code in (303, 401), route
        assert answer.headers.get("location", "/sign-in").startswith("/sign-in"), route

    ada, bob = site.signed_in(site.key("ada")), site.signed_in(site.key("bob"))
    assert ada.get(f"/batches/{batch_id}").status_code == 200
    for path in (f"/batches/{batch_id}", f"/media/{job_id}/video", f"/live/batches/{batch_id}"):
        assert bob.get(path).status_code == 404, path
    assert batch_id in ada.get("/").text
    assert batch_id not in bob.get("/").text


def test_a_session_ends_with_its_key_and_when_it_is_signed_out(open_site: Callable[..., Site]) -> None:
    site = open_site()
    secret = site.key("ada")
    browser, other = site.signed_in(secret), site.signed_in(secret)
    cookie = browser.get("/sign-in").headers.get("set-cookie", "")
    assert secret not in browser.get("/").text
    assert "vgen_session" not in cookie

    kept = browser.cookies["vgen_session"]
    assert browser.post("/sign-out", data={"token": token(browser.get("/").text)}).status_code == 303
    assert browser.get("/").headers["location"] == "/sign-in"
    stolen = site.browser(KeyRule.ALWAYS)
    stolen.cookies["vgen_session"] = kept
    assert stolen.get("/").headers["location"] == "/sign-in"
    keys.revoke(site.database, [secret.split("_")[2]], by="t")
    answer = other.get("/batches/x?q=a")
    assert answer.headers["location"] == "/sign-in?next=%2Fbatches%2Fx%3Fq%3Da"
    assert 'vgen_session=""' in answer.headers["set-cookie"]


def test_neither_a_cookie_nor_a_row_opens_anything_but_the_session_that_it_is_of(
    open_site: Callable[..., Site],
) -> None:
    site = open_site()
    secret = site.key("ada")
    browser = site.signed_in(secret)
    cookie = browser.cookies["vgen_session"]
    with site.database.reading() as session:
        (row,) = session.scalars(select(BrowserSession)).all()
    assert secret not in cookie
    assert secret.split("_")[3] not in cookie
    assert row.secret_sha256 != cookie

    for text in (row.secret_sha256, secret, cookie[:-1], "", "vgen_session"):
        stranger = site.browser(KeyRule.ALWAYS)
        stranger.cookies["vgen_session"] = text
        assert stranger.get("/").status_code == 303, text
    for header in ({"authorization": f"Bearer {cookie}"}, {"x-api-key": cookie}):
        assert site.browser(KeyRule.ALWAYS).get("/api/v1/batches", headers=header).status_code == 401


def test_a_session_ends_by_itself_and_its_row_is_swept(open_site: Callable[..., Site]) -> None:
    site = open_site()
    browser = site.signed_in(site.key("ada"))
    assert browser.get("/").status_code == 200
    with site.database.transaction() as session:
        session.execute(update(BrowserSession).values(expires_at=BrowserSession.created_at))
    assert browser.get("/").headers["location"] == "/sign-in"
    with site.database.transaction() as session:
        assert browser_sessions.drop_expired(session) == 1
        assert session.scalars(select(BrowserSession)).all() == []


def test_signing_in_leads_nowhere_else(open_site: Callable[..., Site]) -> None:
    site = open_site()
    key = site.key("ada")
    for wanted in ("//evil.example", "/\\evil.example", "https://evil.example", "/\x00", "\x7f"):
        browser = site.browser(KeyRule.ALWAYS)
        form = browser.get("/sign-in", params={"next": wanted})
        answer = browser.post("/sign-in", data={"key": key, "token": token(form.text), "next": wanted})

        assert (answer.status_code, answer.headers["location"]) == (303, "/"), wanted
        assert "HttpOnly" in answer.headers["set-cookie"]
        assert "samesite=lax" in answer.headers["set-cookie"].lower()


def test_forms_of_other_sites_and_sessions_are_refused(open_site: Callable[..., Site]) -> None:
    site = open_site()
    browser = site.signed_in(site.key("ada"))
    held = token(browser.get("/").text)
    for data, headers in (
        ({}, {}),
        ({"token": "0" * 64}, {}),
        ({"token": held}, {"origin": "https://evil.example"}),
        ({"token": held}, {"origin": "null"}),
        ({"token": held}, {"sec-fetch-site": "cross-site"}),
        ({"token": held}, {"sec-fetch-site": "same-site"}),
    ):
        assert browser.post("/sign-out", data=data, headers=headers).status_code == 403, (data, headers)
    own = {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}
    assert browser.post("/sign-out", data={"token": held}, headers=own).status_code == 303


def test_a_job_leads_to_its_tasks_in_flower_where_that_is_known(open_site: Callable[..., Site]) -> None:
    links = {"flower_url": "https://flower.example.org/f/", "public_url": "https://clips.example.org"}
    site = open_site(serve=links)
    job_id = f"{site.line.submit(*LINES)}-000000"
    claimed = site.line.go_on(job_id, Stage.GENERATE)
    page = site.browser().get(f"/jobs/{job_id}").text
    screened, running = (
        f"https://flower.example.org/f/task/{job_id}.1.0.{stage}.1" for stage in ("screen", "generate")
    )
    assert {screened, running} <= Structure(page).addresses

    view = site.browser().get(f"/api/v1/jobs/{job_id}").json()
    assert (view["task_url"], view["url"]) == (running, f"https://clips.example.org/jobs/{job_id}")
    assert view["attempts"][0]["task_url"] == screened
    assert claimed.attempt == 1


def test_public_pages_are_read_only(open_site: Callable[..., Site]) -> None:
    site = open_site(serve={"public_pages": True})
    batch_id, job_id = made(site, HARMLESS)
    stranger = site.browser(KeyRule.ALWAYS)

    page = stranger.get(f"/batches/{batch_id}")
    assert (page.status_code, "Sign in" in page.text) == (200, True)
    assert stranger.get(f"/api/v1/batches/{batch_id}").status_code == 401
    for route in every_page():
        if route.method == "POST" and route.path != "/sign-in":
            answer = stranger.post(route.at(**dict.fromkeys(route.parameters, job_id)), data={"token": "x"})
            assert answer.headers["location"].startswith("/sign-in"), route


def test_an_address_that_says_nothing_is_refused_with_what_is_wrong(open_site: Callable[..., Site]) -> None:
    site = open_site()
    browser, batch_id = site.browser(), site.line.submit(*LINES)
    for query, said in (
        ("state=gone", "use one of waiting"),
        ("seed=-1", "not a whole number"),
        ("seed=99999999999999999999", "not a whole number"),
        ("least=nan&metric=a", "not a number"),
        ("least=1", "name the metric"),
        ("sort=best", "name the metric"),
        ("after=x", "not a place"),
        ("after=7_0", "not a place"),
        ("after=0_0_1_2", "not a place"),
        ("label==x", "label"),
        ("view=list", "use one of wall"),
    ):
        answer = browser.get(f"/batches/{batch_id}?{query}")
        assert (answer.status_code, said in answer.text) == (400, True), (query, answer.text)
        assert "content-security-policy" in answer.headers


def test_a_path_that_there_is_not_is_a_page_to_browsers_and_json_to_programs(open_site: Callable[..., Site]) -> None:
    browser = open_site().browser()
    for path in ("/batches/", "/nothing", "/<script>alert(1)</script>"):
        page = browser.get(path, headers={"accept": "text/html,*/*;q=0.8"})
        assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
        assert "This server has nothing at" in page.text
        assert "<script>alert" not in page.text
        assert browser.get(path).json()["error"]["code"] == "unknown_url"


def test_what_is_gone_is_said(open_site: Callable[..., Site]) -> None:
    site = open_site()
    browser = site.browser()
    batch_id, job_id = made(site, HARMLESS)

    gone = browser.get(f"/media/{job_id}/video")
    assert (gone.status_code, gone.json()["error"]["code"], gone.headers["cache-control"]) == (
        404,
        "video_expired",
        "no-store",
    )
    with site.database.transaction() as session:
        session.execute(delete(ArtifactRow))
    assert "Swept: its files are no longer kept" in browser.get(f"/batches/{batch_id}").text
    with site.database.transaction() as session:
        deletion.request(session, job_id, by="ada")
    assert "Deleted" in browser.get(f"/jobs/{job_id}").text


def test_what_is_away_is_said(open_site: Callable[..., Site], tmp_path: Path) -> None:
    away = {"endpoint_url": "http://127.0.0.1:1", "access_key_id": "a", "secret_access_key": "b", "timeout_s": 1}
    site = open_site(storage="s3://bucket", s3=away)
    batch_id, job_id = made(site, HARMLESS)
    browser = site.browser()
    assert browser.get(f"/media/{job_id}/video").status_code == 503
    assert browser.get(f"/batches/{batch_id}").status_code == 200

    database = Database("postgresql+psycopg://x@127.0.0.1:1/x?connect_timeout=2")
    app = create_app(site.settings, database, key_rule=KeyRule.NEVER)
    answer = TestClient(app, base_url="http://127.0.0.1:8000").get("/")
    database.close()
    assert (answer.status_code, answer.headers["content-type"]) == (503, "text/html; charset=utf-8")
    assert 0 < int(answer.headers["retry-after"]) < 120
    assert "away" in answer.text


def test_buttons_do_what_they_say_and_only_that(open_site: Callable[..., Site]) -> None:
    site = open_site()
    browser = site.browser()
    batch_id = site.line.submit(*LINES)
    job_id = f"{batch_id}-000000"

    def press(verb: str, **fields: str) -> str:
        data = {"token": token(browser.get(f"/jobs/{job_id}").text), **fields}
        answer = browser.post(f"/jobs/{job_id}/{verb}", data=data)
        assert answer.status_code == 303, answer.text
        return browser.get(answer.headers["location"]).text

    assert site.line.job(job_id).state is JobState.WAITING
    assert "It was asked to stop" in press("cancel")
    assert site.line.job(job_id).state is JobState.CANCELLED
    assert "Nothing was changed" in press("cancel")
    assert "It is queued again" in press("retry")
    assert "Nothing was changed" in press("approve")
    assert site.line.job(job_id).state is JobState.WAITING
    assert HARMLESS in press("rerun")
    assert browser.get("/").text.count('class="batch"') == 2


def test_prompts_are_tried_and_then_submitted(open_site: Callable[..., Site]) -> None:
    site = open_site()
    browser = site.browser()
    form = {"text": "a fox\r\na boat\r\n", "format": "txt", "token": token(browser.get("/submit").text)}

    plan = browser.post("/submit", data={**form, "dry_run": "true"})
    assert (plan.status_code, "<b>2</b> clips" in plan.text) == (200, True)
    wrong = browser.post("/submit", data={**form, "text": '{"promt": "a"}', "format": "jsonl"})
    assert (wrong.status_code, "did you mean" in wrong.text) == (400, True)
    binary = browser.post("/submit", data=form, files={"file": ("p.txt", b"\xff\xfe\xfd")})
    assert (binary.status_code, "not UTF-8" in binary.text) == (400, True)
    assert "There is nothing yet" in browser.get("/").text
    stored = browser.post(
        "/submit", data={**form, "name": "mine"}, files={"file": ("p.yml", b"prompts:\n- prompt: an owl\n")}
    )
    assert stored.status_code == 303, stored.text
    assert "an owl" in browser.get(stored.headers["location"]).text


def test_the_models_of_a_stream_that_are_installed_come_first_and_the_others_say_what_they_lack(
    open_site: Callable[..., Site],
) -> None:
    html = open_site().browser().get("/stream").text
    options = re.findall(r'<option value="([^"]+)"[^>]*>([^<]*)</option>', html)
    names = [name for name, _ in options if "-" in name]
    assert {"shapes-wan", "tiny-wan", "wan2.1-t2v-1.3b", "mochi-1"} <= set(names)
    assert "svd-xt" not in names  # it needs a picture
    marked = [f"vgen models pull {name}" in text for name, text in options if name in names]
    assert marked == sorted(marked)
    assert not marked[names.index("shapes-wan")]
    assert marked[names.index("wan2.1-t2v-1.3b")]
