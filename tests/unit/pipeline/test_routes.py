from __future__ import annotations

import pytest

from pipeline.names import is_gpu_type
from pipeline.policy.routes import (
    CPU_QUEUE,
    IO_QUEUE,
    GpuCapacity,
    chain_from,
    choose_gpu_type,
    encode_queue,
    encode_slots,
    fits,
    gpu_queue,
    gpu_type_of,
    is_encode_queue,
    route,
)
from pipeline.presets import get_preset
from pipeline.spec import JobSpec
from pipeline.states import Stage

GIB = 1024**3
HOST = encode_queue("x")


def _spec(*gpu: str) -> JobSpec:
    values = {"width": 32, "height": 32, "num_frames": 5, "fps": 8, "num_inference_steps": 1, "guidance_scale": 1}
    return JobSpec.model_validate({"prompt": "a", "seed": 1, "preset": "tiny-wan", "gpu": gpu, **values})


def _choose(lines: dict[str, GpuCapacity], *gpu: str) -> str | None:
    return choose_gpu_type(gpu, get_preset("tiny-wan"), lines)


def test_queue_names_tell_what_they_serve() -> None:
    assert gpu_type_of(gpu_queue("h200")) == "h200"
    assert gpu_type_of("vgen.cpu") is None
    assert is_encode_queue(encode_queue("x"))
    assert not is_encode_queue(gpu_queue("x"))


def test_the_dispatcher_places_what_needs_a_gpu_and_nothing_else() -> None:
    assert [stage for stage in Stage if route(stage, "x") is None] == [Stage.GENERATE]
    assert {route(Stage.ENCODE, "x"), route(Stage.SCORE, "x")} == {encode_queue("x")}
    assert [route(stage) for stage in (Stage.ENCODE, Stage.SCORE)] == [None, None]  # nobody says where the frames are


@pytest.mark.parametrize(
    ("stage", "queue", "facts", "rest"),
    [
        (Stage.ENHANCE, IO_QUEUE, {}, [(Stage.SCREEN, CPU_QUEUE)]),
        (Stage.SCREEN, CPU_QUEUE, {}, []),
        (Stage.GENERATE, "vgen.gpu.h200.idle", {}, []),
        (Stage.ENCODE, HOST, {}, [(Stage.PUBLISH, IO_QUEUE)]),
        (
            Stage.ENCODE,
            encode_queue("x"),
            {"scored": True},
            [(Stage.SCORE, encode_queue("x")), (Stage.PUBLISH, IO_QUEUE)],
        ),
        (Stage.ENCODE, encode_queue("x"), {"scored": True, "last_segment": False}, []),
        (Stage.SCORE, CPU_QUEUE, {"scored": True}, [(Stage.PUBLISH, IO_QUEUE)]),
        (Stage.PUBLISH, IO_QUEUE, {"scored": True}, []),
    ],
)
def test_a_message_carries_the_rest_of_its_chain(
    stage: Stage, queue: str, facts: dict[str, bool], rest: list[tuple[Stage, str]]
) -> None:
    assert chain_from(stage, queue, **{"scored": False, "last_segment": True, **facts}) == [(stage, queue), *rest]


@pytest.mark.parametrize(
    ("name", "valid"), [("a100-80gb", True), ("", False), ("-a", False), ("H200", False), ("a.b", False)]
)
def test_names_of_gpu_types(name: str, valid: bool) -> None:
    assert is_gpu_type(name) is valid


@pytest.mark.parametrize(
    ("line", "room"),
    [
        (GpuCapacity(1, 0, None), 2),
        (GpuCapacity(2, 3, 60.0), 1),
        (GpuCapacity(1, 0, 1.0), 10),
        (GpuCapacity(1, 0, 0.001), 64),
        (GpuCapacity(1, 5, None), -3),
    ],
)
def test_room_is_two_a_slot_and_more_while_the_line_is_short(line: GpuCapacity, room: int) -> None:
    assert line.room == room


def test_the_type_with_the_shortest_expected_wait_is_chosen() -> None:
    lines = {"fast": GpuCapacity(1, 1, 5.0), "slow": GpuCapacity(1, 1, 50.0), "many": GpuCapacity(4, 4, 60.0)}

    assert _choose(lines) == "fast"
    assert _choose(lines, "slow", "many") == "slow"
    assert _choose(lines | {"idle": GpuCapacity(1, 0, 600.0)}) == "idle"


def test_a_job_waits_when_nothing_fits() -> None:
    assert _choose({}) is None
    assert _choose({"a": GpuCapacity(1, 2, None)}) is None
    assert _choose({"a": GpuCapacity(0, 0, None)}) is None
    assert _choose({"a": GpuCapacity(1, 0, None)}, "b") is None
    assert _choose({"a": GpuCapacity(1, 0, None, memory_bytes=1024)}) is None


def test_memory_counts_only_where_it_is_known() -> None:
    preset = get_preset("tiny-wan")
    assert fits(preset, None)
    assert fits(preset, GIB)
    assert not fits(preset, 1)


@pytest.mark.parametrize(("cores", "threads", "slots"), [(1, 2, 2), (2, 2, 2), (16, 2, 9), (16, 5, 4)])
def test_one_clip_more_is_encoded_than_fills_the_cores(cores: int, threads: int, slots: int) -> None:
    assert encode_slots(cores, threads) == slots
