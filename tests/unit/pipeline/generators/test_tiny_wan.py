"""The built-in model is the same wherever and however often it is built."""

from __future__ import annotations

import hashlib
import multiprocessing
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pipeline.generators import read_pipeline
from pipeline.models.hub import ModelStatus, check, model_status
from pipeline.models.tiny_wan import build_pipeline, ensure_tiny_wan
from pipeline.presets import get_preset


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_two_processes_at_once_leave_one_whole_model_equal_to_another_build(tmp_path: Path, model_cache: Path) -> None:
    # Forks of this process, which has loaded torch: to load it takes each ten times as long as to build the model.
    forks = multiprocessing.get_context("fork")
    builders = [forks.Process(target=ensure_tiny_wan, args=(tmp_path,)) for _ in range(2)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert [builder.exitcode for builder in builders] == [0, 0]
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["tiny-wan-v1"]
    assert digests(tmp_path / "models/tiny-wan-v1") == digests(ensure_tiny_wan(model_cache))


def test_building_keeps_the_callers_random_state() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    build_pipeline()
    assert torch.equal(torch.rand(3), expected)


def test_it_is_small_and_passes_its_own_check(model_cache: Path) -> None:
    folder = ensure_tiny_wan(model_cache)
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 500_000
    found = check(get_preset("tiny-wan"), model_cache)
    assert (found.folder, found.problems) == (folder, ())
    assert model_status(get_preset("tiny-wan"), model_cache) is ModelStatus.BUILT_IN


def test_any_prompt_can_be_tokenized() -> None:
    tokenizer = build_pipeline().tokenizer
    for text in ("", "a cat", "naïve 雨 🐈 مرحبا", "x" * 5000):
        ids = tokenizer(text, truncation=True, max_length=512).input_ids
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.unk_token_id not in ids
        assert len(ids) <= 512


@pytest.mark.parametrize(
    ("device", "numbers", "one"), [("cpu", 1_000, True), ("cpu", 20_000_000, False), ("cuda", 1_000, False)]
)
def test_small_models_compute_in_one_thread_of_a_cpu(device: str, numbers: int, one: bool) -> None:
    pipe = SimpleNamespace(components={"transformer": torch.nn.Linear(1, numbers, bias=False), "tokenizer": None})

    assert read_pipeline._threads_for(pipe, device) == (1 if one else read_pipeline._THREADS)
