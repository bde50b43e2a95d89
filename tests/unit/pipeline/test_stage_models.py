"""What stages keep from clip to clip belongs to the worker that lends it, and to no module."""

from __future__ import annotations

import ast
import importlib
import sys
import threading
import types
from pathlib import Path

import pytest

import pipeline
from pipeline.errors import RefusedError
from pipeline.generators.process.memory_growth import memory_in_use
from pipeline.settings import EnhanceSettings, SafetySettings, Settings
from pipeline.wiring import StageModels
from tests.unit.pipeline.safety.fasttext_file import write_safety_classifier

ROOT = Path(pipeline.__file__).parent
ROOMS = [path for room in ("stages", "enhancers", "safety", "scoring") for path in sorted((ROOT / room).rglob("*.py"))]
PLAIN = {"float", "str", "tuple[Floats, float]"}
"""What a function of a module may remember: values, no models and no connections."""


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_keeps_what_has_to_be_released(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    kept = [
        ast.unparse(node)
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and node.value is not None
        and ast.unparse(node.value) in ("{}", "[]", "None", "set()", "dict()", "list()")
    ]
    kept += [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Global)]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and any("cache" in ast.unparse(one) for one in node.decorator_list):
            is_of_object = any("cached_property" in ast.unparse(one) for one in node.decorator_list)
            if not is_of_object and (node.returns is None or ast.unparse(node.returns) not in PLAIN):
                kept.append(node.name)
    assert kept == []


def test_each_is_made_once_and_released_by_close(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path,
        enhance=EnhanceSettings(providers=("local=http://127.0.0.1:9#m",)),
        safety=SafetySettings(classifier=write_safety_classifier(tmp_path / "safety.bin")),
    )
    models = StageModels(settings)
    enhancer, safety_filter, scorers = models.enhancer, models.safety_filter, models.scorers()
    assert (models.enhancer, models.safety_filter, models.scorers()) == (enhancer, safety_filter, scorers)
    assert safety_filter is not None
    assert safety_filter.screen("kitten").label == "safe"
    assert safety_filter._loaded is not None
    process = safety_filter._loaded.process

    models.close()

    assert not process.usable
    assert models.enhancer is not enhancer
    assert models.scorers() is not scorers
    models.close()


def test_scorers_are_on_one_device_at_a_time(tmp_path: Path) -> None:
    models = StageModels(Settings(home=tmp_path))
    on_cpu, on_gpu = models.scorers(), models.scorers("cuda")
    assert (on_cpu.device, on_gpu.device) == ("cpu", "cuda")
    assert models.scorers("cuda") is on_gpu
    models.release_scorers()
    assert models.scorers("cuda") is not on_gpu


def test_what_is_not_configured_is_told_when_it_is_asked_for(tmp_path: Path) -> None:
    models = StageModels(Settings(home=tmp_path, enhance=EnhanceSettings(providers=("nobody",))))
    assert models.safety_filter is None
    with pytest.raises(RefusedError, match="VGEN_ENHANCE_PROVIDERS") as caught:
        _ = models.enhancer
    assert caught.value.code == "enhance_not_configured"


def test_memory_is_given_back_and_measured_while_another_thread_imports_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("import import_gate\nimport_gate.begun.set()\nimport_gate.go_on.wait()\n")
    gate = types.ModuleType("import_gate")
    begun, go_on = threading.Event(), threading.Event()
    gate.__dict__.update(begun=begun, go_on=go_on)
    monkeypatch.setitem(sys.modules, "import_gate", gate)
    monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))  # put back afterwards, if it was loaded
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.syspath_prepend(tmp_path)
    models = StageModels(Settings(home=tmp_path))
    models.scorers()
    importing = threading.Thread(target=lambda: importlib.import_module("torch"))
    importing.start()
    try:
        assert begun.wait(30)

        models.release_scorers()

        assert set(memory_in_use()) == {"host"}
    finally:
        go_on.set()
        importing.join()
