"""A store that fails, is slow, lies or forgets: what is published is whole, and published once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.faults.fault_cluster import World, until
from tests.faults.proxy import StoreFault


def done(world: World, batch_id: str) -> None:
    world.wait_ended(batch_id)
    states = {row[0] for row in world.rows(f"SELECT state FROM jobs WHERE batch_id = '{batch_id}'")}
    assert states == {"succeeded"}


def videos(world: World, batch_id: str) -> Sequence[tuple[str, str]]:
    return [
        (job, key)
        for job, key in world.rows(
            f"""SELECT a.job_id, a.key FROM artifacts a JOIN jobs j ON j.id = a.job_id
            WHERE j.batch_id = '{batch_id}' AND a.kind = 'video'"""
        )
    ]


@pytest.mark.parametrize(
    "fault",
    [
        StoreFault.ERROR_500,
        pytest.param(StoreFault.ERROR_503, marks=pytest.mark.slow_faults),
        StoreFault.CUT,
        StoreFault.WRONG_BODY,
        pytest.param(StoreFault.VANISHED, marks=pytest.mark.slow_faults),
        pytest.param(StoreFault.SLOW, marks=pytest.mark.slow_faults),
    ],
)
def test_an_upload_that_fails_is_made_again_and_published_whole(world: World, fault: StoreFault) -> None:
    world.store_proxy.met.clear()
    world.store_proxy.fail(fault, times=5, slow_s=7)

    batch_id = world.clips(3)

    done(world, batch_id)
    assert world.store_proxy.met == [fault] * 5


@pytest.mark.slow_faults
def test_a_store_that_fails_at_random_loses_nothing(world: World) -> None:
    for seed, fault in enumerate((StoreFault.ERROR_500, StoreFault.CUT, StoreFault.WRONG_BODY, StoreFault.VANISHED)):
        methods = ("PUT", "HEAD", "GET") if fault in (StoreFault.ERROR_500, StoreFault.CUT) else ("PUT",)
        for method in methods:
            world.store_proxy.fail(fault, method=method, times=10, chance=0.1, seed=seed)

    batch_id = world.clips(8)

    done(world, batch_id)


@pytest.mark.parametrize(
    "point",
    [
        "after_upload",
        "publish_verified",
        pytest.param("encode_write", marks=pytest.mark.slow_faults),
        pytest.param("upload:poster", marks=pytest.mark.slow_faults),
    ],
)
def test_a_worker_that_dies_around_an_upload_publishes_once(world: World, point: str) -> None:
    mark = world.folder / f"died-{point.replace(':', '-')}"
    for host in world.hosts.values():
        host.fail(f"{point}=kill!{mark}")

    batch_id = world.clips(2)

    done(world, batch_id)
    assert mark.exists()
    assert len(videos(world, batch_id)) == 2


@pytest.mark.parametrize(
    "damage",
    [
        "flipped",
        pytest.param("cut short", marks=pytest.mark.slow_faults),
        pytest.param("gone", marks=pytest.mark.slow_faults),
    ],
)
def test_what_was_damaged_after_its_upload_is_not_published(world: World, damage: str) -> None:
    # Given a publish that waits until the uploaded video has been damaged in the store
    folder = world.s3.folder / "buckets" / world.bucket.name / "media"
    for host in world.hosts.values():
        host.fail(f"before_work:publish=sleep:4!{world.folder / f'waits-{damage}'}")
    batch_id = world.clips(1)
    job = world.one(f"SELECT id FROM jobs WHERE batch_id = '{batch_id}'")
    publishing = f"SELECT count(*) FROM steps WHERE job_id = '{job}' AND stage = 'publish' AND state = 'running'"
    until(lambda: world.one(publishing), "publish has begun")
    (video,) = (folder / job).glob("*.mp4")

    content = video.read_bytes()
    if damage == "flipped":
        video.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "cut short":
        video.write_bytes(content[:-1])
    else:
        world.store.delete(f"media/{job}/{video.name}")

    # Then the clip is made again, and what is published is whole (the fixture compares the bytes)
    done(world, batch_id)
    assert world.one(f"SELECT count(*) FROM events WHERE job_id = '{job}' AND kind = 'rewound'") == 1
