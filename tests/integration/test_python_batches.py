"""``vgen.submit`` and what follows, over HTTP and over the rows behind it: one interface, equal answers."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

import vgen
from pipeline.errors import ConflictError, InputError, NotFoundError, ServiceUnavailableError
from tests.serving import serving

PROMPTS = ["a red fox", {"prompt": "a boat", "seed": 7, "num_frames": 4}]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("batches")


@pytest.fixture(scope="module")
def remote(home: Path) -> Iterator[vgen.Connection]:
    with serving(home) as served, vgen.connect(str(served.client.base_url)) as connection:
        yield connection


@pytest.fixture(scope="module")
def rows(remote: vgen.Connection, home: Path) -> Iterator[vgen.Connection]:
    with vgen.connect(settings={"home": home}) as connection:
        yield connection


@pytest.fixture(scope="module")
def batch(remote: vgen.Connection) -> vgen.Batch:
    """Two clips that are made."""
    batch = remote.submit(PROMPTS, name="two", preset="idle")
    assert batch.wait(60).batch.counts["succeeded"] == 2
    return batch


def test_both_ways_tell_the_same(batch: vgen.Batch, rows: vgen.Connection) -> None:
    same = rows.batch(batch.id)

    assert [clip.job for clip in same.results()] == [clip.job for clip in batch.results()]
    assert list(same.events()) == list(batch.events())
    assert same.status().batch == batch.status().batch == same.wait(1).batch
    assert [clip.job.prompt for clip in batch.results()] == ["a red fox", "a boat"]


def test_a_submission_that_is_repeated_either_way_adds_nothing(
    batch: vgen.Batch, remote: vgen.Connection, rows: vgen.Connection
) -> None:
    for connection in (remote, rows):
        again = connection.submit(PROMPTS, name="two", preset="idle")
        assert again.id == batch.id
        assert again.submitted is not None
        assert not again.submitted.created


def test_of_a_file_that_grew_only_what_is_new_is_made_and_of_a_list_everything(
    remote: vgen.Connection, rows: vgen.Connection, tmp_path: Path
) -> None:
    file = tmp_path / "grows.txt"
    file.write_text("#: preset = idle\na hen\n", "utf-8")
    first = rows.submit(file)
    for connection, line in ((remote, "a fox"), (rows, "a goat")):
        file.write_text(file.read_text("utf-8") + f"{line}\n", "utf-8")
        more = connection.submit(file, name=f"with {line}")
        assert [clip.job.prompt for clip in more.results()] == [line]
        assert more.submitted is not None
        assert sum(each.jobs for each in more.submitted.reused) == (1 if connection is remote else 2)
        assert (more.submitted.reused[-1].batch_id == first.id) is (connection is remote)  # later, the whole one
        whole = connection.submit(file, reuse=False)
        assert len(whole.results()) == sum(each.jobs for each in more.submitted.reused) + 1

        connection.submit(PROMPTS, preset="idle")
        listed = connection.submit([*PROMPTS, line], preset="idle")
        assert len(listed.results()) == 3
        assert listed.submitted is not None
        assert "the option 'reuse'" in " ".join(listed.submitted.notices)
        assert len(connection.submit([*PROMPTS, line, f"{line} flees"], preset="idle", reuse=True).results()) == 1

    # And a batch has its estimate, however it was submitted
    assert "estimated" in [entry.kind for entry in rows.submit(PROMPTS, preset="idle", again=True).events(follow=False)]


def test_a_clip_comes_whole_and_never_over_another_file(
    batch: vgen.Batch, rows: vgen.Connection, tmp_path: Path
) -> None:
    clip, stored = batch.results()[1], rows.batch(batch.id).results()[1]
    path = clip.download(tmp_path / "clips")

    assert path.read_bytes() == stored.download(tmp_path / "same.mp4").read_bytes()
    assert clip.download(path) == path
    assert "a-boat" in path.name
    (tmp_path / "other.mp4").write_text("mine", "utf-8")
    with pytest.raises(ConflictError, match="is there already"):
        clip.download(tmp_path / "other.mp4")


def test_without_blocking_a_loop(batch: vgen.Batch) -> None:
    async def seen() -> tuple[int, list[str]]:
        return len(await batch.results_async()), [entry.kind async for entry in batch.events_async()]

    count, kinds = asyncio.run(seen())
    assert count == 2
    assert kinds[0] == "submitted"


def test_mistakes_are_the_same_errors_either_way(remote: vgen.Connection, rows: vgen.Connection) -> None:
    for connection in (remote, rows):
        with pytest.raises(InputError, match="seed"):
            connection.submit([{"prompt": "x", "seed": "soon"}], preset="idle")
        with pytest.raises(InputError, match="did you mean 'max_cost'"):
            connection.submit(["x"], max_costs=3)
        with pytest.raises(InputError, match="looks like a file"):
            connection.submit("prompts.txt")
        with pytest.raises(InputError, match=r"prompts\[1\]: 7 is neither a prompt nor a mapping"):
            connection.submit(["x", 7])  # type: ignore[list-item]
        with pytest.raises(InputError, match=r"^max_gpu_hours: "):
            connection.submit(["x"], max_gpu_hours=-1)
        with pytest.raises(InputError, match=r"^reroll: names no metric: give some, such as checks for score"):
            connection.submit(["x"], reroll=1)
        with pytest.raises(InputError, match=r"^key and again exclude each other"):
            connection.submit(["x"], key="k", again=True)
        with pytest.raises(NotFoundError):
            connection.batch("1m0000000000a")


def test_a_server_that_is_not_there_and_a_url_that_is_none() -> None:
    with (
        vgen.connect("http://127.0.0.1:9") as connection,
        pytest.raises(ServiceUnavailableError, match=r"127\.0\.0\.1:9"),
    ):
        connection.submit("a fox")
    with pytest.raises(InputError, match="is not a server's URL"):
        vgen.connect("clips")
    with pytest.raises(InputError, match="a key is for a server"):
        vgen.connect(key="vgen_sk_x")
