"""One grammar of owners, labels and queues: what every place that takes one says of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from cli.operate.pause import queue_names
from cli.options import FieldOptions, checked_owner, label_of
from db.models import Queue, Step
from pipeline.errors import InputError, SettingsError
from pipeline.names import MAX_OWNER, check_labels, check_owner
from pipeline.policy.routes import CPU_QUEUE, IO_QUEUE, encode_queue, gpu_queue, preset_queue, preset_slug, queue_named
from pipeline.prompts.parse import parse_bytes
from pipeline.settings import load_settings
from pipeline.spec import JobSpec

OWNERS = {"ada": True, "Ada Lovelace": True, "grüße": True, "a" * MAX_OWNER: True}
OWNERS |= {"a" * (MAX_OWNER + 1): False, " ada": False, "a\nb": False, "a\0": False, "\ud800": False, "a\x1b[0m": False}
LABELS = {("a", "b"): True, ("größe", "1 2"): True, ("a", ""): True, ("n" * 64, "v" * 256): True}
LABELS |= {("n" * 65, "v"): False, ("a", "v" * 257): False, ("a\0", "b"): False, ("a", "\ud800"): False}
SPEC = {
    **{"prompt": "a", "seed": 1, "preset": "tiny-wan", "width": 32, "height": 32, "num_frames": 5, "fps": 8},
    **{"num_inference_steps": 1, "guidance_scale": 1},
}


def allowed(check: Callable[[], Any]) -> bool:
    try:
        check()
    except (InputError, SettingsError, ValidationError, ValueError):
        return False
    return True


def _file(**fields: Any) -> None:
    parse_bytes(json.dumps({"prompt": "x", **fields}).encode(), "p.jsonl", overrides={}, settings=load_settings())


@pytest.mark.parametrize("owner", OWNERS)
def test_every_place_has_the_same_word_on_an_owner(owner: str) -> None:
    valid = OWNERS[owner]

    assert allowed(lambda: check_owner(owner)) is valid
    assert allowed(lambda: checked_owner(owner)) is valid
    if owner == owner.strip():  # a setting loses its blanks
        assert allowed(lambda: load_settings(owner=owner)) is valid


@pytest.mark.parametrize("label", LABELS)
def test_every_place_has_the_same_word_on_a_label(label: tuple[str, str]) -> None:
    valid, (name, value) = LABELS[label], label

    assert allowed(lambda: check_labels({name: value})) is valid
    assert allowed(lambda: label_of(f"{name}={value}")) is valid
    assert allowed(lambda: FieldOptions(label=[f"{name}={value}"]).overrides()) is valid
    assert allowed(lambda: JobSpec.model_validate({**SPEC, "labels": {name: value}})) is valid
    assert allowed(lambda: _file(labels={name: value})) is valid


def test_a_label_that_is_chosen_by_may_have_no_value() -> None:
    assert (label_of("a"), label_of(" a = b=c ")) == (("a", None), ("a", "b=c"))
    with pytest.raises(InputError, match="is not of the form name=value"):
        label_of("=b")


@pytest.mark.parametrize("gpu_type", ["h200", "a" * 41])
@pytest.mark.parametrize("preset", ["tiny-wan", "wan2.2-t2v-14b", "p" * 128])
def test_every_queue_is_one_that_people_can_name_and_rows_can_hold(gpu_type: str, preset: str) -> None:
    mine = preset_queue(gpu_type, preset_slug(preset))
    queues = [IO_QUEUE, CPU_QUEUE, gpu_queue(gpu_type), mine, encode_queue("0f3a9b2c4d5e")]

    assert [queue_named(queue) for queue in queues] == queues == queue_names(queues)
    for column in (Step.__table__.c.queue, Queue.__table__.c.name):
        assert max(map(len, queues)) <= column.type.length


@pytest.mark.parametrize("name", ["vgen.tpu", "vgen.gpu.H200", "vgen.io.x", "H200", "", "vgen.gpu.h200.", "*"])
def test_what_is_no_queue_is_told_with_the_rule(name: str) -> None:
    with pytest.raises(ValueError, match=r"is not a queue: expected vgen\.io"):
        queue_named(name)
    with pytest.raises(InputError, match=r"is not a queue: expected vgen\.io"):
        queue_names([name])
