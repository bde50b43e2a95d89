"""GPU types from product names, and discovery through an nvidia-smi executable."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ServiceUnavailableError, SettingsError
from pipeline.models.gpus import find_gpus, gpu_type_of

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("name", "mebibytes", "expected"),
    [
        ("NVIDIA A100-SXM4-80GB", 81920, "a100-80gb"),
        ("NVIDIA A100-SXM4-40GB", 40960, "a100-40gb"),
        ("NVIDIA A100 80GB PCIe", 81920, "a100-80gb"),
        ("A100-PCIE-40GB", 40960, "a100-40gb"),
        ("NVIDIA H100 PCIe", 81559, "h100"),
        ("NVIDIA H100 80GB HBM3", 81559, "h100"),
        ("NVIDIA H100 NVL", 95830, "h100-nvl"),
        ("NVIDIA H200", 143771, "h200"),
        ("NVIDIA B200", 183359, "b200"),
        ("NVIDIA GeForce RTX 4090", 24564, "rtx4090"),
        ("NVIDIA GeForce RTX 3080 Ti", 12288, "rtx3080-ti"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 16376, "rtx4090-laptop"),
        ("NVIDIA RTX A6000", 49140, "rtx-a6000"),
        ("NVIDIA RTX 6000 Ada Generation", 49140, "rtx6000-ada"),
        ("NVIDIA L40S", 46068, "l40s"),
        ("NVIDIA L4", 23034, "l4"),
        ("NVIDIA A10G", 23028, "a10g"),
        ("Tesla T4", 15360, "t4"),
        ("Tesla V100-SXM2-16GB", 16384, "v100-16gb"),
        ("Tesla V100-SXM2-32GB", 32768, "v100-32gb"),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", 81920, "a100-80gb-mig-1g-10gb"),
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", 81559, "h100-mig-3g-40gb"),
        ("NVIDIA H100 PCIe MIG 1g.10gb+me", 81559, "h100-mig-1g-10gb-me"),
    ],
)
def test_type_of_product(name: str, mebibytes: int, expected: str) -> None:
    assert gpu_type_of(name, mebibytes * MIB) == expected


def fake_nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    folder.mkdir()
    executable = folder / "nvidia-smi"
    executable.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
    executable.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "0, GPU-aa, NVIDIA H200, 143771, Disabled\\n1, GPU-bb, NVIDIA GeForce RTX 4090, 24564, [N/A]\\n"
    fake_nvidia_smi(tmp_path / "bin", monkeypatch, f"printf '{rows}'")
    first, second = find_gpus()
    assert (first.index, first.uuid, first.type, first.memory_bytes) == (0, "GPU-aa", "h200", 143771 * MIB)
    assert second.type == "rtx4090"
    assert second.device_env == {"CUDA_VISIBLE_DEVICES": "GPU-bb"}


def test_gpus_that_share_a_clip_are_one_of_a_type_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "".join(f"{n}, GPU-{n}, NVIDIA H200, {143771 - n}, Disabled\\n" for n in range(4))
    fake_nvidia_smi(tmp_path / "bin", monkeypatch, f"printf '{rows}'")
    first, second = find_gpus(per_worker=2)
    assert (first.type, first.memory_bytes, first.device_env) == (
        "h200x2",
        143770 * MIB,
        {"CUDA_VISIBLE_DEVICES": "GPU-0,GPU-1"},
    )
    assert (second.index, second.uuid) == (2, "GPU-2,GPU-3")
    with pytest.raises(SettingsError, match="cannot be grouped by 3 whole GPUs of one type: h200, h200, h200, h200"):
        find_gpus(per_worker=3)
    fake_nvidia_smi(tmp_path / "mixed", monkeypatch, f"printf '{rows}4, GPU-4, NVIDIA L40S, 46068, [N/A]\\n'")
    with pytest.raises(SettingsError, match="VGEN_GPUS_PER_WORKER"):
        find_gpus(per_worker=5)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [gpu.type for gpu in find_gpus(cpu_slots=2, per_worker=2)] == ["cpux2", "cpux2"]


def test_mig_gpu_stands_for_its_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = """if [ "$1" = -L ]; then cat <<END
GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-aa)
  MIG 3g.40gb     Device  0: (UUID: MIG-one)
  MIG 1g.10gb     Device  1: (UUID: MIG-two)
GPU 1: NVIDIA A100-SXM4-80GB (UUID: GPU-bb)
END
else printf '0, GPU-aa, NVIDIA A100-SXM4-80GB, 81920, Enabled\\n1, GPU-bb, NVIDIA A100-SXM4-80GB, 81920, Disabled\\n'
fi"""
    fake_nvidia_smi(tmp_path / "bin", monkeypatch, script)
    gpus = find_gpus()
    assert [(gpu.uuid, gpu.type) for gpu in gpus] == [
        ("MIG-one", "a100-80gb-mig-3g-40gb"),
        ("MIG-two", "a100-80gb-mig-1g-10gb"),
        ("GPU-bb", "a100-80gb"),
    ]
    assert gpus[1].memory_bytes == 10 * 1024 * MIB


def test_setting_replaces_the_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvidia_smi(tmp_path / "bin", monkeypatch, "printf '0, GPU-aa, NVIDIA H200, 143771, Disabled\\n'")
    assert [gpu.type for gpu in find_gpus("studio-a")] == ["studio-a"]


@pytest.mark.parametrize("script", [None, "echo 'No devices were found'; exit 6", "true"])
def test_host_without_gpu_has_one_cpu_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None) -> None:
    if script is None:
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        fake_nvidia_smi(tmp_path / "bin", monkeypatch, script)
    (slot,) = find_gpus()
    assert slot.type == "cpu"
    assert slot.device_env == {"CUDA_VISIBLE_DEVICES": ""}


def test_failing_driver_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvidia_smi(tmp_path / "bin", monkeypatch, "echo 'Driver/library version mismatch' >&2; exit 18")
    with pytest.raises(ServiceUnavailableError, match="status 18: Driver/library version mismatch"):
        find_gpus()
