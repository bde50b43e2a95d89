"""The file of `vgen serve --config`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.encoding.live import Mode
from pipeline.errors import InputError
from pipeline.settings import load_settings
from server.stream.config import StreamingConfig, read_serve_file, serve_file_of


def test_defaults_are_fastvideo_s() -> None:
    config = StreamingConfig()
    assert (config.session_timeout_seconds, config.generation_segment_cap) == (300, 6)
    assert config.stream_mode is Mode.AV_FMP4
    assert (config.warmup.enabled, config.warmup.timeout_seconds) == (True, 2400)
    assert (config.pool.num_workers, config.pool.enable_audio_reencode) == (None, True)
    assert (config.pool.conditioning_num_frames, config.pool.conditioning_end_offset) == (9, 0)
    assert (config.prompt.enabled, config.prompt.provider, config.prompt.model) == (False, "cerebras", "gpt-oss-120b")
    assert (config.prompt.timeout_ms, config.safety.enabled) == (20_000, False)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"streeming": {}}, "streeming: is not a field of this file: did you mean 'streaming'?"),
        ({"streaming": {"session_timeout": 3}}, "did you mean 'session_timeout_seconds'?"),
        ({"streaming": {"prompt": {"time_ms": 3}}}, "streaming.prompt.time_ms: is not a field"),
        ({"streaming": {"generation_segment_cap": 0}}, "streaming.generation_segment_cap: 0 is not possible"),
        ({"streaming": {"stream_mode": "hls"}}, "streaming.stream_mode: 'hls' is not possible"),
        ({"streaming": {"prompt": {"provider": "openai"}}}, "streaming.prompt.provider: 'openai'"),
        ({"streaming": {"safety": {"enabled": True}}}, "streaming.safety.classifier_path"),
        ({"server": {"port": 70_000}}, "server.port: 70000"),
        ({"default_request": {"sampling": {"fps": float("inf")}}}, "default_request.sampling.fps"),
        ({"router": {}}, "vgen router-serve"),
        ({"streaming": [1]}, "streaming"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(data: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError) as refused:
        serve_file_of(data)
    assert told in str(refused.value)


@pytest.mark.parametrize("text", ["- 1", "a: &x 1", "a: [", "streaming: {}\nstreaming: {}"])
def test_a_file_that_is_not_a_mapping_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "serve.yaml").write_text(text)
    with pytest.raises(InputError, match=r"serve\.yaml"):
        read_serve_file(tmp_path / "serve.yaml")


def test_what_is_not_acted_on_is_told(tmp_path: Path) -> None:
    (tmp_path / "serve.yaml").write_text(
        "generator: { model_path: m, engine: { num_gpus: 2 }, pipeline: { preset: wan } }\n"
        "server: { output_dir: o }\nstreaming: { warmup: { enabled: false } }\n"
    )
    file = read_serve_file(tmp_path / "serve.yaml")
    assert file.preset == "wan"
    names = [text.partition(" is not read")[0] for text in file.notices]
    assert names == ["generator.model_path", "generator.engine", "server.output_dir", "streaming.warmup"]


def test_prompts_of_the_file_are_the_settings(tmp_path: Path) -> None:
    file = serve_file_of(
        {
            "streaming": {
                "prompt": {"enabled": True, "provider": "groq", "timeout_ms": 1500},
                "safety": {"enabled": True, "classifier_path": str(tmp_path / "c.bin")},
            }
        }
    )
    settings = file.settings(load_settings())
    assert (settings.enhance.providers, settings.enhance.timeout_s) == (("groq",), 1.5)
    assert settings.safety.classifier == tmp_path / "c.bin"
    assert serve_file_of({}).settings(load_settings()) == load_settings()
