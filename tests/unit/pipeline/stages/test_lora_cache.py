"""LoRA files on a host: fetched once, checked, and removed when they were not used for long."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from pipeline.errors import RefusedError, RetryableError
from pipeline.handoff import Handoff
from pipeline.settings import load_settings
from pipeline.spec import InputRef, LoraRef
from pipeline.stages.lora_cache import IN_USE_S, fetch_lora
from pipeline.storage.folder import FolderStorage
from pipeline.wiring import StageModels
from pipeline.work import StageContext


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    return StageContext(
        settings=load_settings(home=tmp_path, worker={"lora_cache_bytes": 250}),
        models=StageModels(load_settings(home=tmp_path, worker={"lora_cache_bytes": 250})),
        storage=FolderStorage(tmp_path / "media"),
        handoff=Handoff.open(tmp_path / "handoff", 1000),
        on_progress=lambda _: None,
        check=lambda: None,
    )


def stored(context: StageContext, byte: bytes) -> LoraRef:
    data = byte * 100
    ref = LoraRef(file=InputRef(sha256=hashlib.sha256(data).hexdigest(), media_type="x", name="a.safetensors"))
    context.storage.put_bytes(ref.file.key, data, content_type="x")
    return ref


def fetch(ref: LoraRef, context: StageContext) -> Path:
    return fetch_lora(ref, context.storage, context.settings)


def test_fetched_once_and_kept_by_use(context: StageContext) -> None:
    refs = [stored(context, byte) for byte in (b"a", b"b", b"c", b"d")]
    one, two = fetch(refs[0], context), fetch(refs[1], context)
    assert one.read_bytes() == b"a" * 100
    context.storage.delete(refs[0].file.key)
    assert fetch(refs[0], context) == one, "it is here"

    assert fetch(refs[2], context).exists()
    assert two.exists(), "too much together, but all of them are in use"
    long_ago = time.time() - IN_USE_S - 1
    os.utime(two, (long_ago, long_ago))
    fetch(refs[3], context)
    assert sorted(path.read_bytes()[:1] for path in one.parent.iterdir()) == [b"a", b"c", b"d"]


def test_missing_and_wrong_in_the_store(context: StageContext) -> None:
    ref = stored(context, b"a")
    context.storage.put_bytes(ref.file.key, b"something else", content_type="x")
    with pytest.raises(RetryableError) as wrong:
        fetch(ref, context)
    assert wrong.value.code == "storage_corrupt"
    context.storage.delete(ref.file.key)
    with pytest.raises(RefusedError, match=r"a\.safetensors") as missing:
        fetch(ref, context)
    assert missing.value.code == "input_missing"
    assert list((context.settings.effective_cache_dir / "loras").iterdir()) == []
