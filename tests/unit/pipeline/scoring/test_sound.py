"""CLAP's likeness of a clip's sound, with a small model of the real inputs, and the sound as it is read."""

from __future__ import annotations

import shutil
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from transformers import (
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    RobertaTokenizer,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

from pipeline.errors import RefusedError
from pipeline.media import sound as media_sound
from pipeline.media.opening import UnreadableMediaError
from pipeline.media.sound import read_sound
from pipeline.scoring import METRICS, Context, Models, Weights, read_clip
from pipeline.scoring.extended.sound import edit_distance, quoted, words

RATE = 48_000
PROMPTS = ("a dog barks", "rain on a roof", "a horn " * 60)
SOUNDS = [(seconds, pitch) for seconds in (0.3, 1.0, 9.99, 10.0, 10.01) for pitch in (110, 440, 1760)]
"""Fifteen: shorter than a window, one, and a little more; three pitches."""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights directory with a small CLAP, as on the hub: two layers, but the real spectrogram."""
    target = tmp_path_factory.mktemp("clap") / "laion--clap-htsat-unfused"
    text = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    audio = {"depths": [1, 1], "num_attention_heads": [2, 2], "patch_embeds_hidden_size": 16, "hidden_size": 32}
    config = ClapConfig(
        text_config={**text, "intermediate_size": 37, "max_position_embeddings": 80, "projection_dim": 32},
        audio_config={**audio, "projection_dim": 32, "enable_fusion": False, "num_hidden_layers": 2},
        projection_dim=32,
    )
    torch.manual_seed(0)
    model = ClapModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    letters = [chr(code) for code in range(33, 127)]
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters, "\u0120"]
    model.save_pretrained(target)
    ClapFeatureExtractor(truncation="rand_trunc", padding="repeatpad").save_pretrained(target)
    RobertaTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[]).save_pretrained(target)
    return target


@pytest.fixture(scope="session")
def models(folder: Path) -> Models:
    return Models(Weights(folder.parent))


def tone(seconds: float, pitch: float, rate: int = RATE) -> Any:
    time = np.arange(round(seconds * rate)) / rate
    random = np.random.default_rng(int(pitch))
    noise = random.standard_normal(len(time)) * 0.05
    return (0.5 * np.sin(2 * np.pi * pitch * time) * np.exp(-time) + noise).astype(np.float32)


def film(path: Path, samples: Any, rate: int = RATE, channels: int = 1) -> Path:
    """A clip of one second with this sound, without loss."""
    with av.open(str(path), "w", format="matroska") as container:
        picture = container.add_stream("ffv1", rate=Fraction(8))
        picture.width, picture.height, picture.pix_fmt = 32, 32, "yuv420p"
        track = container.add_stream("flac", rate=rate, layout="mono" if channels == 1 else "stereo")
        for _ in range(8):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
            container.mux(picture.encode(frame))
        container.mux(picture.encode())
        whole = np.clip(samples * 32767, -32768, 32767).astype(np.int16)
        for start in range(0, len(whole), 4096):
            part = np.ascontiguousarray(np.repeat(whole[start : start + 4096], channels)[None])
            sound = av.AudioFrame.from_ndarray(part, "s16", "mono" if channels == 1 else "stereo")
            sound.rate, sound.pts = rate, start
            container.mux(track.encode(sound))
        container.mux(track.encode())
    return path


@pytest.mark.parametrize("metric", ["sound.clap", "sound.word_error_rate"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_sound_that_is_no_numbers_is_not_scored(
    models: Models, whisper_folder: Path, metric: str, value: float, tmp_path: Path
) -> None:
    with av.open(str(tmp_path / "clip.mkv"), "w", format="matroska") as container:
        picture = container.add_stream("ffv1", rate=Fraction(8))
        picture.width, picture.height, picture.pix_fmt = 32, 32, "yuv420p"
        track = container.add_stream("pcm_f32le", rate=RATE, layout="mono")
        container.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")))
        container.mux(picture.encode())
        samples = tone(0.5, 440)
        samples[1000:1010] = value
        sound = av.AudioFrame.from_ndarray(samples[None], "flt", "mono")
        sound.rate, sound.pts = RATE, 0
        container.mux(track.encode(sound))
        container.mux(track.encode())
    used = models if metric == "sound.clap" else Models(Weights(whisper_folder.parent))

    score = METRICS[metric].score(read_clip(tmp_path / "clip.mkv"), Context(used, 'a voice says "hello"'))

    assert (score.score, score.reason) == (None, "its sound has samples that are not finite numbers")


def test_the_likeness_is_that_of_transformers_own_forward(models: Models, folder: Path, tmp_path: Path) -> None:
    """The oracle: ``ClapModel``'s logits of text and sound in one call, window by window."""
    model, features = ClapModel.from_pretrained(folder).eval(), ClapFeatureExtractor.from_pretrained(folder)
    tokenizer = RobertaTokenizer.from_pretrained(folder)
    found = []
    for number, (seconds, pitch) in enumerate(SOUNDS):
        samples, prompt = tone(seconds, pitch), PROMPTS[number % 3]
        clip = read_clip(film(tmp_path / f"{number}.mkv", samples))
        heard = np.clip(samples * 32767, -32768, 32767).astype(np.int16) / np.float32(32768)
        ids = tokenizer(prompt)["input_ids"]
        ids = ids if len(ids) <= 78 else [*ids[:77], ids[-1]]
        cosines = []
        for start in range(0, len(heard), 10 * RATE):
            window = features(heard[start : start + 10 * RATE], sampling_rate=RATE, return_tensors="pt")
            with torch.no_grad():
                answer = model(input_ids=torch.tensor([ids]), **window)
            cosines.append(float((answer.logits_per_audio / model.logit_scale_a.exp()).detach()))

        score = METRICS["sound.clap"].score(clip, Context(models, prompt))

        assert score.score == pytest.approx(np.mean(cosines), abs=1e-6), (seconds, pitch)
        assert score.weight == len(cosines) == (2 if seconds > 10 else 1)
        found.append(round(score.score or 0, 4))
    assert len(set(found)) > len(found) / 2


def test_sound_is_read_as_one_channel_of_the_rate_that_is_asked_for(tmp_path: Path, monkeypatch: Any) -> None:
    samples = 0.5 * np.sin(2 * np.pi * 220 * np.arange(44_100) / 44_100)
    stereo = read_sound(film(tmp_path / "a.mkv", samples, 44_100, channels=2), RATE)
    assert len(stereo) == pytest.approx(RATE, abs=50)
    wanted = 0.5 * np.sin(2 * np.pi * 220 * np.arange(len(stereo)) / RATE)
    assert np.abs(stereo - wanted)[1000:-1000].max() < 0.01
    monkeypatch.setattr(media_sound, "MAX_S", 0.25)
    assert len(read_sound(tmp_path / "a.mkv", RATE)) == RATE // 4


def test_what_cannot_be_heard_is_not_scored(models: Models, tmp_path: Path) -> None:
    metric = METRICS["sound.clap"]
    for name, samples, reason in (
        ("silent", np.zeros(RATE, np.float32), "its sound is silent"),
        ("short", tone(0.05, 440), "its sound has 0.05 s; it needs 0.1 s"),
    ):
        clip = read_clip(film(tmp_path / f"{name}.mkv", samples))
        assert metric.score(clip, Context(models, "a dog barks")).reason == reason
    from tests.unit.pipeline.scoring.conftest import DATA  # noqa: PLC0415

    mute = read_clip(DATA / "clips/cut.mp4")
    assert metric.score(mute, Context(models, "a dog barks")).reason == "the clip has no sound"
    with pytest.raises(UnreadableMediaError, match="it has no sound"):
        read_sound(mute.path, RATE)


def test_a_folder_that_is_no_clap_is_refused(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / folder.name
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).symlink_to(file)
    for name, rule in (
        ("tokenizer.json", "without a vocabulary every word is the same"),
        ("preprocessor_config.json", "preprocessor_config.json"),
        ("config.json", ""),
    ):
        (target / name).rename(tmp_path / name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(RefusedError, match=rule) as caught:
                Models(Weights(tmp_path)).get("clap")
        assert caught.value.code == "eval_weights_wrong"
        (tmp_path / name).rename(target / name)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "tokenizer.json"])
@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", "[" * 5000, '{"audio_config": 3}', '{"audio_config": {"depths": "x"}}', '{"model": 1}'],
)
def test_a_damaged_file_of_a_folder_is_wrong_weights_or_does_not_matter(
    folder: Path, tmp_path: Path, name: str, content: str
) -> None:
    target = Path(shutil.copytree(folder, tmp_path / folder.name))
    (target / name).write_text(content)
    models = Models(Weights(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        errors = []
        for _ in range(2):  # it is read once, and not again for each clip
            try:
                models.get("clap")
            except RefusedError as error:  # some of these files are as good as none
                errors.append(error)
    assert all(error.code == "eval_weights_wrong" and str(target) in str(error) for error in errors)
    assert len(errors) in (0, 2)


SPECIAL = ("<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>", "<|nospeech|>")


@pytest.fixture(scope="session")
def whisper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights directory with a small Whisper, as on the hub, that speaks in letters."""
    target = tmp_path_factory.mktemp("whisper") / "openai--whisper-base"
    letters = [chr(code) for code in range(97, 123)]
    tokenizer = WhisperTokenizer(vocab={word: i for i, word in enumerate([*letters, "\u0120", *SPECIAL])}, merges=[])
    end, start, no_times, _ = (int(tokenizer.convert_tokens_to_ids(word)) for word in SPECIAL)
    small = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_target_positions": 64}
    ends = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": start}
    config = WhisperConfig(
        vocab_size=len(tokenizer), **small, **heads, **ends, suppress_tokens=None, begin_suppress_tokens=None
    )
    torch.manual_seed(3)
    model = WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.5)
    model.generation_config.no_timestamps_token_id = no_times
    model.generation_config.is_multilingual = False
    model.generation_config.max_length = 12
    model.save_pretrained(target)
    WhisperFeatureExtractor().save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


def _distance(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """The definition, by trying everything."""
    if not a or not b:
        return len(a) + len(b)
    return min(_distance(a[1:], b) + 1, _distance(a, b[1:]) + 1, _distance(a[1:], b[1:]) + (a[0] != b[0]))


@pytest.mark.parametrize("seed", range(20))
def test_the_distance_of_texts_is_the_fewest_changes(seed: int) -> None:
    random = np.random.default_rng(seed)
    a, b = (tuple(str(word) for word in random.integers(0, 3, random.integers(0, 7))) for _ in range(2))
    assert edit_distance(a, b) == _distance(a, b)


def test_what_is_to_be_said_stands_in_quotes() -> None:
    prompt = 'A man says "Don\u2019t STOP, now!" and a child \u201cgo on\u2026\u201d, and \u00abbon voyage\u00bb.'
    assert words(" ".join(quoted(prompt))) == ["don't", "stop", "now", "go", "on", "bon", "voyage"]
    assert words("'tis 3 o'clock -- caf\u00e9_x") == ["tis", "3", "o'clock", "caf\u00e9", "x"]
    assert quoted("nobody says a word") == quoted('""') == []


def test_the_word_error_rate_is_of_what_whisper_hears(whisper_folder: Path, tmp_path: Path) -> None:
    """The oracle: transformers' own greedy decoding of the same samples, and the distance by trying everything."""
    models = Models(Weights(whisper_folder.parent))
    model = WhisperForConditionalGeneration.from_pretrained(whisper_folder).eval()
    features, rate = WhisperFeatureExtractor.from_pretrained(whisper_folder), 16_000
    tokenizer = WhisperTokenizer.from_pretrained(whisper_folder)
    metric, heard = METRICS["sound.word_error_rate"], []
    for number, (seconds, pitch) in enumerate(SOUNDS):
        samples = tone(seconds, pitch, rate)
        clip = read_clip(film(tmp_path / f"{number}.mkv", samples, rate))
        pcm = np.clip(samples * 32767, -32768, 32767).astype(np.int16) / np.float32(32768)
        inputs = features(pcm, sampling_rate=rate, return_tensors="pt", return_attention_mask=True)
        tokens = model.generate(inputs["input_features"], attention_mask=inputs["attention_mask"], do_sample=False)
        text = tokenizer.decode(tokens[0], skip_special_tokens=True).strip()

        score = metric.score(clip, Context(models, f'she says "{text[:4]} and so on"'))

        asked = tuple(words(f"{text[:4]} and so on"))
        assert score.details["heard"] == text
        assert score.score == pytest.approx(_distance(asked, tuple(words(text))) / len(asked))
        heard.append(text)
    assert metric.score(clip, Context(models, f'"{text}"')).score == 0.0
    assert (metric.score(clip, Context(models, "nothing")).reason or "").startswith("the prompt has no words in quotes")
    assert len(set(heard)) > 1


def test_a_folder_that_is_no_whisper_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "openai--whisper-base").symlink_to(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(RefusedError) as caught:
            Models(Weights(tmp_path)).get("whisper")
    assert caught.value.code == "eval_weights_wrong"
