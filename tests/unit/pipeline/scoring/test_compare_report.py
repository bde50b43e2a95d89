"""The report of a comparison: Markdown, one HTML file without scripts, and its links."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline.scoring import METRICS
from pipeline.scoring.compare import (
    MEANING,
    Comparison,
    Key,
    Run,
    RunClip,
    SpeedSample,
    State,
    compare,
    playable,
    speed_verdicts,
)
from pipeline.scoring.compare.facts import changes, facts_of
from pipeline.scoring.compare.html import address, html
from pipeline.scoring.compare.report import Report, as_json, markdown, worst_prompts
from pipeline.scoring.metric import Score
from tests.conftest import REPOSITORY

QUALITY, BLACK = METRICS["vbench.imaging_quality"], METRICS["checks.black"]


class _Page(HTMLParser):
    """Every element with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def all(self, tag: str, attribute: str) -> list[str | None]:
        return [attributes.get(attribute) for name, attributes in self.found if name == tag]


def _run(name: str, lost: float, videos: str = "{}.mp4") -> Run:
    return Run(
        name,
        {
            Key(entry, 1): RunClip(
                videos.format(entry),
                {QUALITY.name: Score(70 - lost * (1 + entry / 10)), BLACK.name: Score(0.1 + entry / 100 * lost)},
                prompt=f"view {entry} of <all>",
            )
            for entry in range(8)
        },
    )


@pytest.fixture
def report(tmp_path: Path) -> Report:
    before, after = (
        _run("last <night>", 0.0, f"{tmp_path}/before {{}}.mp4"),
        _run("tonight", 3.0, "https://x/{}.mp4?signed=by&whom=me"),
    )
    found = compare(before, after, [QUALITY, BLACK], {QUALITY.name: 1.0})
    samples = [SpeedSample("wan", "H100", 60.0)] * 5
    return Report(found, [_run(f"night {night}", 0.1) for night in range(3)], speed_verdicts(samples, samples[:1]))


def test_the_worst_prompts_are_those_that_lost_most(report: Report) -> None:
    quality = report.comparison.metrics[0]
    assert [prompt.entry for prompt in worst_prompts(quality)] == [7, 6, 5, 4, 3]
    assert worst_prompts(compare(_run("a", 1.0), _run("b", 0.0), [QUALITY], {}).metrics[0]) == []


def test_the_page_stands_by_itself_and_shows_both_clips(report: Report, tmp_path: Path) -> None:
    page = html(report)
    parsed = _Page(page)

    tags = [tag for tag, _ in parsed.found]
    assert {"script", "link", "img", "iframe"}.isdisjoint(tags)
    assert tags.count("svg") == 2  # the forest, and the history of the gated metric
    videos = parsed.all("video", "src")
    assert len(videos) == 10
    assert videos[:2] == [f"{tmp_path.as_uri()}/before%207.mp4", "https://x/7.mp4?signed=by&whom=me"]
    assert ">7.mp4</bdi></a>" in page
    assert "-5.1: <bdi>view 7 of &lt;all&gt;</bdi>" in page
    assert "last &lt;night&gt;" in page
    assert "last <night>" not in page
    assert "prefers-color-scheme: dark" in page
    assert "repeat with a second seed set before alarming" in page


def test_the_forest_has_a_row_for_each_metric_and_the_history_a_point_for_each_run(report: Report) -> None:
    classes = _Page(html(report)).all("line", "class")
    assert [name for name in classes if name and name.startswith("interval")] == [
        "interval regressed",
        "interval no_calibration free",
    ]
    points = _Page(html(report)).all("circle", "class")
    assert points.count("point past") == 3
    assert points[-1] == "point regressed"


def test_markdown_has_the_verdict_and_unbroken_tables(report: Report) -> None:
    text = markdown(report)
    assert text.startswith("# regressed\n")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count(" | ") for line in rows if "vbench" in line} == {9}
    assert "| wan | H100 | seconds per clip | ok | 60 s | 60 s |" in rows
    assert "| 7 | view 7 of &lt;all> | -5.1 |" in text
    assert "last &lt;night>" in text


def test_json_says_the_same(report: Report) -> None:
    found = as_json(report)
    quality, black = found["metrics"]
    assert (found["state"], found["confidence"], quality["state"], quality["margin"]) == (
        "regressed", pytest.approx(0.95), "regressed", 1.0,
    )  # fmt: skip
    assert quality["gain"] == pytest.approx(-4.05)
    assert quality["low"] < quality["gain"] < quality["high"] < -1.0
    assert (black["state"], black["p_worse"], black["better"]) == ("no_calibration", None, "lower")
    assert found["speed"][0]["median"] == 60.0


def test_a_comparison_without_numbers_has_a_page_too() -> None:
    same = Run("a", {Key(0, 1): RunClip("a.mp4", {}, "digest")})
    assert "identical" in html(Report(compare(same, same, [], {})))
    lonely = compare(_run("a", 0.0), Run("b", {Key(99, 1): RunClip("b.mp4", {})}), [QUALITY], {QUALITY.name: 1.0})
    assert "incomplete" in html(Report(lonely, [_run("c", 0.0)]))
    assert "9 clips are in one run only" in markdown(Report(lonely))


@pytest.mark.parametrize("video", ["javascript:alert(1)", "data:text/html,x", "clips/a b.mp4"])
def test_a_link_is_an_address_or_a_file_of_this_host(video: str) -> None:
    assert address(video).startswith("file:///")
    assert address("http://host/a.mp4") == "http://host/a.mp4"


def test_every_state_has_its_sentence_here_and_in_the_docs() -> None:
    page = (REPOSITORY / "docs" / "comparing-runs.md").read_text("utf-8")
    assert set(MEANING) == set(State)
    assert [state.value for state in State if f"| `{state.value}` | {MEANING[state]} |" not in page] == []


def test_the_meaning_names_the_gated_metrics_that_decided_it(report: Report) -> None:
    assert report.meaning.endswith(f"Metrics in this state: {QUALITY.name}.")
    assert report.meaning in html(report).replace("&#39;", "'")
    assert report.meaning in markdown(report)
    assert as_json(report)["meaning"] == report.meaning


def test_a_likeness_says_its_bound_and_not_its_distance_from_equal_clips(report: Report) -> None:
    before, after = (_run(name, 0.0) for name in ("before", "after"))
    psnr = METRICS["common.psnr"]
    clips = {key: replace(clip, scores={psnr.name: Score(30 + key.entry / 10)}) for key, clip in after.clips.items()}
    found = compare(before, Run("after", clips), [psnr], {psnr.name: 60.0})
    assert found.metrics[0].reason.endswith("at best, where at least 40 is allowed")
    assert found.metrics[0].reason.startswith("30.")
    chart = html(Report(found, [before, Run("after", clips)], runs=(before, Run("after", clips))))
    assert ">160<" not in chart  # the band of what the margin allows ends where the metric does


def test_a_first_night_has_a_report_with_its_scores_and_what_its_suite_can_detect() -> None:
    alone = Comparison("none", "tonight", State.NO_CALIBRATION, "calibrate", (), 0, 0.025)
    night = Report(alone, runs=(None, _made(_run("tonight", 0.0))), detectable=["Eight prompts."], reason="The first.")
    page, text, found = html(night), markdown(night), as_json(night)
    for shown in ("The first.", "Eight prompts.", "832x480", "this run", QUALITY.name, "calibrate"):
        assert shown in page
        assert shown in text
    assert (found["runs"]["baseline"], found["changes"]) == (None, None)
    assert (found["detectable"], found["meaning"]) == (["Eight prompts."], "The first.")
    assert f"| {QUALITY.name} | 70 | 8 | 0 |" in text


def test_what_was_not_compared_and_gates_nothing_is_one_sentence_a_reason(report: Report) -> None:
    before, after = _run("before", 0.0), _run("after", 0.0)
    found = compare(before, after, [QUALITY, METRICS["common.ssim"], METRICS["common.psnr"]], {QUALITY.name: 1.0})
    page = markdown(Report(found))
    assert "- common.ssim, common.psnr not compared: 8 clips could not be compared with the baseline's." in page
    assert "| common.ssim |" not in page


MADE = {
    "at": "2026-03-01T01:30:00+00:00",
    "preset": "wan",
    "version": "0.1.0, commit 0123456789ab",
    "model_revision": "r1",
    "gpu_type": "H100",
    "size": "832x480",
    "num_frames": 81,
    "fps": 16.0,
    "settings": {"num_inference_steps": 30, "acceleration": {"compile": False}, "negative_prompt": None},
    "encode": {"crf": 18},
    "libraries": {"torch": "2.13.0", "diffusers": "0.40.0"},
}


def _made(run: Run, **changed: object) -> Run:
    """The run whose clips say how they were made, with posters and pages."""
    clips = {
        key: replace(
            clip,
            made={**MADE, **changed},
            poster=f"https://x/{key.entry}.jpg",
            page=f"https://vgen.example/jobs/{run.name}-{key.entry}",
        )
        for key, clip in run.clips.items()
    }
    return Run(run.name, clips)


@pytest.fixture
def told(report: Report) -> Report:
    """A report of runs that say how they were made."""
    before = _made(_run("before", 0.0))
    after = _made(
        _run("after", 3.0),
        at="2026-03-02T01:30:00+00:00",
        version="0.1.0, commit ba9876543210",
        settings={**MADE["settings"], "num_inference_steps": 20},  # type: ignore[dict-item]
        libraries={"torch": "2.14.0", "diffusers": "0.40.0"},
        encode={"crf": 18, "preset": "fast"},
    )
    return replace(report, runs=(before, after))


CHANGES = [
    ("version", "0.1.0, commit 0123456789ab", "0.1.0, commit ba9876543210"),
    ("encode.preset", None, "fast"),
    ("libraries.torch", "2.13.0", "2.14.0"),
    ("settings.num_inference_steps", "30", "20"),
]


def test_a_report_says_what_the_runs_are_and_what_changed(told: Report) -> None:
    found = as_json(told)

    assert [(item["name"], item["baseline"], item["candidate"]) for item in found["changes"]] == CHANGES
    candidate = found["runs"]["candidate"]
    assert (candidate["first_at"], candidate["clips"], candidate["prompts"], candidate["seeds"]) == (
        *("2026-03-02T01:30:00+00:00", 8, 8),
        (1,),
    )
    worst = found["metrics"][0]["worst"][0]
    assert (worst["prompt"], worst["seed"], worst["size"], worst["fps"]) == ("view 7 of <all>", 1, "832x480", 16.0)
    assert (worst["baseline_page"], worst["candidate_page"]) == tuple(
        f"https://vgen.example/jobs/{name}-7" for name in ("before", "after")
    )
    page, text = html(told), markdown(told)
    for shown in ("2026-03-01 01:30 UTC", "832x480", "8 of 8 prompts", "settings.num_inference_steps"):
        assert shown in page
        assert shown in text
    posters = _Page(page).all("video", "poster")
    assert posters[:2] == ["https://x/7.jpg", "https://x/7.jpg"]
    assert "https://vgen.example/jobs/after-7" in _Page(page).all("a", "href")


def test_metrics_that_gate_stand_apart_from_those_that_do_not(told: Report) -> None:
    page, text = html(told), markdown(told)
    for content in (page, text):
        places = [
            content.index(name) for name in ("Gated metrics", "imaging_quality", "Other metrics", "regressed")
        ]  # fmt: skip
        assert places[0] < places[2]
    tables = [part.partition("</table>")[0] for part in page.split("<h3>")[1:3]]
    assert [("imaging_quality" in table, "checks.black" in table) for table in tables] == [(True, False), (False, True)]


def test_equal_runs_have_changed_nothing_and_silent_ones_say_so(report: Report) -> None:
    same = (_made(_run("a", 0.0)), _made(_run("b", 3.0)))
    assert "Nothing that is recorded" in html(replace(report, runs=same))
    assert as_json(replace(report, runs=same))["changes"] == []
    silent = replace(report, runs=(_run("a", 0.0), same[1]))
    assert as_json(silent)["changes"] is None
    assert "What changed" not in html(silent)
    assert "What changed" not in markdown(report)


def test_clips_that_were_made_differently_among_themselves_are_several() -> None:
    run = _made(_run("a", 0.0))
    key = Key(0, 1)
    mixed = Run("a", {**run.clips, key: replace(run.clips[key], made={**MADE, "preset": "ltx"})})
    assert facts_of(mixed).made["preset"] == "several"


def test_how_scores_were_made_is_part_of_what_changed() -> None:
    def scored(torch: str) -> Run:
        run = _made(_run("a", 0.0))
        score = Score(1.0, details={"scorer": {"torch": torch, "weights": {"x": "y"}, "version": 1}})
        return Run("a", {key: replace(clip, scores={QUALITY.name: score}) for key, clip in run.clips.items()})

    found = changes(facts_of(scored("2.12.0")), facts_of(scored("2.13.0")))
    assert [(change.name, change.baseline, change.candidate) for change in found] == [
        ("scorer.torch", "2.12.0", "2.13.0")
    ]


def test_a_scorer_of_scores_that_one_run_lacks_is_no_change_and_equal_clips_show_their_scores() -> None:
    def scored(run: Run, **scores: Score) -> Run:
        clips = {key: replace(clip, pixels="same", scores=scores) for key, clip in run.clips.items()}
        return _made(Run(run.name, clips))

    quality = Score(1.0, details={"scorer": {"decoder": "av"}})
    likeness = Score(100.0, details={"scorer": {"decoder": "av", "device": "cpu", "torch": "2.13.0"}})
    first = scored(_run("first", 0.0), **{QUALITY.name: quality, "common.psnr": Score(None, reason="no baseline")})
    second = scored(_run("second", 0.0), **{QUALITY.name: quality, "common.psnr": likeness})
    same = Report(compare(first, second, [QUALITY], {QUALITY.name: 1.0}), runs=(first, second))

    assert same.comparison.state is State.IDENTICAL
    assert as_json(same)["changes"] == []
    for content in (html(same), markdown(same)):
        assert "Nothing that is recorded" in content
        assert "common.psnr" in content
        assert "100" in content


def test_records_of_rows_get_addresses_and_files_stay() -> None:
    records = [{"video": "media/a.mp4", "job": "b-1", "poster": "media/a.jpg"}, {"video": "b.mp4"}]
    found = playable(records, "https://store/{}".format, "https://vgen.example/")
    assert found == [
        {
            **{"video": "https://store/media/a.mp4", "key": "media/a.mp4", "job": "b-1"},
            **{"poster": "https://store/media/a.jpg", "page": "https://vgen.example/jobs/b-1"},
        },
        {"video": "b.mp4"},
    ]
    assert "page" not in playable(records, str)[0]
