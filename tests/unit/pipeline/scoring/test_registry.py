"""Names, groups, and what can be computed here."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.scoring import GROUPS, METRICS, Weights, readiness, select
from pipeline.scoring.metric import Need
from pipeline.scoring.registry import named
from pipeline.scoring.vbench import DIMENSIONS, EXTERNAL
from pipeline.scoring.weight_files import RAFT


def test_groups_are_as_documented() -> None:
    assert len(GROUPS["vbench"]) == 16
    assert sorted(GROUPS["vbench-quality"] + GROUPS["vbench-semantic"]) == sorted(GROUPS["vbench"])
    assert (len(GROUPS["vbench-quality"]), len(GROUPS["vbench-semantic"])) == (7, 9)
    assert GROUPS["common"] == tuple(
        f"common.{name}" for name in ("psnr", "ssim", "ms_ssim", "lpips", "temporal_lpips", "clip")
    )
    assert {METRICS[f"vbench.{name}"].external for name in EXTERNAL} == {True}
    free = [METRICS[name] for name in GROUPS["vbench-free"]]
    assert len(free) == 6
    assert not any(metric.external or metric.needs & {Need.PROMPT, Need.AUXILIARY} for metric in free)
    assert [name.partition(".")[2] for name in GROUPS["vbench"]] == list(DIMENSIONS)


def test_each_name_comes_once_and_in_order() -> None:
    chosen = named(["vbench.temporal_flickering", "checks", "checks.black", "vbench-free"])
    names = [metric.name for metric, _ in chosen]
    assert names[:2] == ["vbench.temporal_flickering", "checks.black"]
    assert len(names) == len(set(names)) == 1 + 8 + 5
    assert {metric.name: explicit for metric, explicit in chosen}["checks.black"] is True


def test_an_unknown_name_is_refused_with_close_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'psnr' is not a metric or a group; did you mean common\.psnr"):
        select(["psnr"], Weights(tmp_path))
    with pytest.raises(InputError, match=r"did you mean vbench\.dynamic_degree"):
        select(["vbench.dynamic_degre"], Weights(tmp_path))


def test_a_group_leaves_out_what_a_name_may_not(tmp_path: Path) -> None:
    weights = Weights(tmp_path)
    selection = select(["vbench"], weights)
    assert [metric.name for metric in selection.metrics] == ["vbench.temporal_flickering"]
    left_out = {metric.name: reason for metric, reason in selection.left_out}
    assert len(left_out) == 15
    assert left_out["vbench.dynamic_degree"].startswith(f"weights missing: {RAFT.name}, looked in {tmp_path}")
    assert "vgen eval export" in left_out["vbench.color"]
    for name in ("vbench.dynamic_degree", "vbench.color"):
        with pytest.raises(InputError, match=r"weights missing|another program"):
            select([name], weights)
    with pytest.raises(InputError, match="needs a reference clip"):
        select(["common.ssim"], weights, reference=False)
    with pytest.raises(InputError, match="none of common can be computed"):
        select(["common"], weights, reference=False)


def test_readiness_names_the_missing_files(tmp_path: Path, weights_folder: Path) -> None:
    assert readiness(METRICS["vbench.aesthetic_quality"], Weights(tmp_path)).missing == (
        "ViT-L-14.pt",
        "sa_0_4_vit_l_14_linear.pth",
    )
    states = {name: readiness(METRICS[name], Weights(weights_folder)).state for name in GROUPS["vbench"]}
    assert sorted(states.values()) == ["external"] * 6 + ["ready"] * 10
