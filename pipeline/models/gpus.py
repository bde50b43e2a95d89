"""List the GPUs of this host by ``nvidia-smi``: no torch, no CUDA context."""

import re
import shutil
import subprocess
from dataclasses import dataclass, replace

from pipeline.errors import ServiceUnavailableError, SettingsError

CPU_TYPE = "cpu"
_QUERY_TIMEOUT_S = 30.0
"""A driver that just woke up has been seen to take many seconds."""
_MEBIBYTE = 1024 * 1024
_NOT_A_MODEL = frozenset(
    {
        *("nvidia", "tesla", "geforce", "quadro", "graphics", "device", "gpu", "generation"),
        *("sxm", "sxm2", "sxm3", "sxm4", "sxm5", "pcie", "hbm2", "hbm2e", "hbm3", "hbm3e"),
    }
)
"""Words of a product's name that tell makers, brands, sockets and chips of memory, not the model."""
_JOINED = frozenset({"rtx", "gtx"})
"""Words that belong to the number after them: ``rtx4090``."""
_MEMORY = re.compile(r"^\d+gb$")
_SEVERAL_MEMORIES = {"a100": (40, 80), "v100": (16, 32), "p100": (12, 16)}
"""Models sold with several sizes of memory (GB, NVIDIA's data sheets): their type carries it always."""
_ONE_MEMORY = frozenset({"h100"})
"""Named with and without its 80 GB, depending on the socket; the larger one is the ``h100-nvl``."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, MIG slice, the host's CPU, or several GPUs that share a clip.

    ``index`` and ``uuid`` are what CUDA_VISIBLE_DEVICES takes."""

    index: int
    uuid: str
    name: str
    type: str
    memory_bytes: int

    @property
    def device_env(self) -> dict[str, str]:
        """Environment that shows a child this device and no other."""
        return {"CUDA_VISIBLE_DEVICES": self.uuid}


def find_gpus(gpu_type: str | None = None, cpu_slots: int = 1, per_worker: int = 1) -> list[Gpu]:
    """The GPUs of this host in nvidia-smi's order, or ``cpu_slots`` of type ``cpu`` when there is no GPU.

    A GPU in MIG mode stands for its slices. ``gpu_type`` (the setting) replaces every type. With ``per_worker`` above 1
    each stands for so many that share a clip, neighbours in that order, and their type says so: ``h200x4``.

    Raises:
        ServiceUnavailableError: nvidia-smi is there and fails.
        SettingsError: the GPUs cannot be grouped so.
    """
    gpus = _single(gpu_type, cpu_slots)
    if per_worker == 1:
        return gpus
    if gpus[0].uuid == "":  # of a CPU's, each is a group: its ranks are processes like any other
        return [replace(gpu, type=f"{gpu.type}x{per_worker}") for gpu in gpus]
    groups = [gpus[start : start + per_worker] for start in range(0, len(gpus), per_worker)]
    for group in groups:
        types = [gpu.type for gpu in group]
        if len(group) != per_worker or len(set(types)) > 1 or "mig" in types[0].split("-"):
            raise SettingsError(
                f"VGEN_GPUS_PER_WORKER: this host's GPUs cannot be grouped by {per_worker} whole GPUs of one type: "
                f"{', '.join(gpu.type for gpu in gpus)}"
            )
    return [
        replace(
            group[0],
            uuid=",".join(gpu.uuid for gpu in group),
            type=f"{group[0].type}x{per_worker}",
            memory_bytes=min(gpu.memory_bytes for gpu in group),  # each holds all of the weights
        )
        for group in groups
    ]


def _single(gpu_type: str | None, cpu_slots: int) -> list[Gpu]:
    devices = _query() if shutil.which("nvidia-smi") else []
    gpus = devices or [Gpu(index, "", "CPU", CPU_TYPE, 0) for index in range(cpu_slots)]
    if gpu_type is None:
        return gpus
    return [Gpu(gpu.index, gpu.uuid, gpu.name, gpu_type, gpu.memory_bytes) for gpu in gpus]


def gpu_type_of(name: str, memory_bytes: int = 0) -> str:
    """The type slug of a product name: ``NVIDIA A100-SXM4-80GB`` is ``a100-80gb``, ``Tesla T4`` is ``t4``.

    Maker, brand and socket are left out. The memory is in the slug where the name has it, or the model is sold with
    several; where only the latter holds, it is the size nearest to ``memory_bytes``, a little under the nominal one.
    A MIG slice keeps its profile: ``NVIDIA A100-SXM4-80GB MIG 1g.10gb`` is ``a100-80gb-mig-1g-10gb``:
    a type holds no dot, since one ends it in a queue's name.
    """
    base, _, profile = name.lower().partition(" mig ")
    words = [word for word in re.split(r"[\s\-_/()]+", base) if word]
    memory = next((word for word in words if _MEMORY.match(word)), None)
    parts: list[str] = []
    for word in words:
        if word in _NOT_A_MODEL or _MEMORY.match(word):
            continue
        if parts and parts[-1] in _JOINED and word[0].isdigit():
            parts[-1] += word
        else:
            parts.append(re.sub(r"[^a-z0-9.]", "", word))
    slug = "-".join(part for part in parts if part) or "gpu"
    sizes = _SEVERAL_MEMORIES.get(slug)
    if sizes and memory is None and memory_bytes:
        memory = f"{min(sizes, key=lambda gb: abs(gb * 1e9 - memory_bytes))}gb"
    if memory and slug not in _ONE_MEMORY:
        slug = f"{slug}-{memory}"
    if profile:
        slug = f"{slug}-mig-{profile.strip()}"
    return re.sub(r"[^a-z0-9]+", "-", slug).strip("-")


def _query() -> list[Gpu]:
    rows = _run("--query-gpu=index,uuid,name,memory.total,mig.mode.current", "--format=csv,noheader,nounits")
    gpus: list[Gpu] = []
    for row in rows.splitlines():
        index, uuid, name, memory, mig = (part.strip() for part in row.split(","))
        size = int(memory) * _MEBIBYTE if memory.isdigit() else 0
        gpu = Gpu(int(index), uuid, name, gpu_type_of(name, size), size)
        gpus += _slices(gpu) if mig == "Enabled" else [gpu]
    return gpus


_SLICE = re.compile(r"^\s+MIG (?P<profile>\S+)\s+Device\s+\d+:\s+\(UUID: (?P<uuid>[^)]+)\)")


def _slices(gpu: Gpu) -> list[Gpu]:
    """The slices of one GPU, from ``nvidia-smi -L``; a slice's memory is in its profile's name."""
    slices: list[Gpu] = []
    inside = False
    for line in _run("-L").splitlines():
        if line.startswith("GPU "):
            inside = gpu.uuid in line
        elif inside and (match := _SLICE.match(line)):
            name = f"{gpu.name} MIG {match['profile']}"
            memory = re.search(r"\.(\d+)gb", match["profile"])
            size = int(memory[1]) * 1024 * _MEBIBYTE if memory else 0
            slices.append(Gpu(gpu.index, match["uuid"], name, gpu_type_of(name, gpu.memory_bytes), size))
    return slices


def _run(*arguments: str) -> str:
    try:
        process = subprocess.run(
            ["nvidia-smi", *arguments], capture_output=True, text=True, timeout=_QUERY_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServiceUnavailableError(f"nvidia-smi: {error}") from error
    if process.returncode != 0:
        if "No devices were found" in process.stdout + process.stderr:
            return ""
        raise ServiceUnavailableError(
            f"nvidia-smi: exit status {process.returncode}: {(process.stderr or process.stdout).strip()}"
        )
    return process.stdout
