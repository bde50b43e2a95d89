"""The parts of shapes-wan as training sees them and as the pipelines run them: the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, WanImageToVideoPipeline, WanPipeline
from PIL import Image

from examples.shapes.autoencoder import LATENT_CHANNELS, build_autoencoder, decode_unclamped
from examples.shapes.clips import ClipPool, to_tensor
from examples.shapes.denoiser import TEXT_TOKENS, Denoiser, loss_of
from examples.shapes.export import DECODER_LOG, TRANSFORMER_LOG, assemble, pipeline_of
from examples.shapes.fit_encoder import fitted, normalise
from examples.shapes.optimiser import optimisers, share_at
from examples.shapes.principal import encode
from examples.shapes.text import build_text_encoder, build_tokenizer
from examples.shapes.train_decoder import held_out_clips
from examples.shapes.unpack import unpack
from pipeline.scoring.shapes.words import MEANINGS

PROMPT = "a shiny red circle moves to the right, in the sky."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("shapes")
    pipeline_of(build_autoencoder(), Denoiser()).to(torch.bfloat16).save_pretrained(path)
    return path


def test_the_whole_model_fits_ten_megabytes(folder: Path) -> None:
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 10_000_000


def test_a_training_goes_on_from_an_export(folder: Path, tmp_path: Path) -> None:
    for log, step in ((DECODER_LOG, 150), (TRANSFORMER_LOG, 50)):
        (folder / log).write_text(f'{{"step": {step}}}\n', "utf-8")
    unpack(folder, tmp_path / "vae", tmp_path / "model")
    again = assemble(tmp_path / "vae", tmp_path / "model")
    theirs = WanPipeline.from_pretrained(folder, dtype=torch.float32)
    for part in ("vae", "transformer", "text_encoder"):
        for name, weight in getattr(theirs, part).state_dict().items():
            torch.testing.assert_close(getattr(again, part).state_dict()[name], weight, atol=0, rtol=0)
    steps = [tmp_path / "vae/decoder_optimiser.pt", tmp_path / "model/transformer.pt"]
    assert [torch.load(file, weights_only=True)["step"] for file in steps] == [150, 50]


def test_words_of_one_meaning_begin_alike_and_others_apart() -> None:
    torch.manual_seed(4)
    encoder, tokenizer = build_text_encoder(), build_tokenizer()
    words = ("red", "crimson", "blue", "rises", "ascends", "falls")
    with torch.no_grad():
        hidden = [encoder(**tokenizer(word, return_tensors="pt")).last_hidden_state for word in words]
    alike = torch.corrcoef(torch.stack([one[0, 0] for one in hidden]))
    for one, first in enumerate(words):
        for two, second in enumerate(words):
            same = MEANINGS[first] == MEANINGS[second]
            assert (alike[one, two] > 0.9) if same else (alike[one, two] < 0.5), (first, second)


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLWan:
    torch.manual_seed(1)
    return fitted(clips=16, seed=3).eval()


def test_the_fitted_encoder_is_the_one_that_the_pipelines_run(vae: AutoencoderKLWan) -> None:
    clips = to_tensor(np.stack(held_out_clips(2)))
    with torch.no_grad():
        mean = vae.encode(clips).latent_dist.mean
    torch.testing.assert_close(encode(vae, clips), mean, atol=1e-3, rtol=1e-3)
    alone = encode(vae, clips[:, :, :1])
    torch.testing.assert_close(alone, encode(vae, clips)[:, :, :1], atol=1e-3, rtol=1e-3)


def test_latents_keep_what_tells_clips_apart(vae: AutoencoderKLWan) -> None:
    """Pixels by least squares from latents: the encoder alone keeps more than 20 dB of clips it was not fitted to."""
    fit, new = (normalise(vae, encode(vae, to_tensor(np.stack(held_out_clips(10, seed))))) for seed in (1, 2))
    shown, hidden = (to_tensor(np.stack(held_out_clips(10, seed))) for seed in (1, 2))
    solution = torch.linalg.lstsq(_places(fit), _blocks(shown)).solution
    error = (_places(new) @ solution - _blocks(hidden)).square().mean() / 4
    assert -10 * error.log10() > 20


def _places(latents: torch.Tensor) -> torch.Tensor:
    rows = latents[:, :, 1:].permute(0, 2, 3, 4, 1).reshape(-1, LATENT_CHANNELS)
    return torch.cat([rows, torch.ones(len(rows), 1)], dim=1)


def _blocks(clips: torch.Tensor) -> torch.Tensor:
    cells = clips[:, :, 1:].view(-1, 3, 4, 4, 4, 16, 8, 16)
    return cells.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(-1, 3 * 4 * 16 * 16)


def test_a_still_chunk_looks_like_a_first_frame(vae: AutoencoderKLWan) -> None:
    first = to_tensor(np.stack(held_out_clips(6)))[:, :, :1]
    latents = normalise(vae, encode(vae, first.repeat(1, 1, 5, 1, 1)))
    apart = (latents[:, :8, 0] - latents[:, :8, 1]).square().mean()
    assert apart < 0.02 * latents[:, :8].square().mean()


def test_the_decoder_goes_through_all_frames_at_once_with_the_same_result(vae: AutoencoderKLWan) -> None:
    latents = encode(vae, to_tensor(np.stack(held_out_clips(1))))
    with torch.no_grad():
        whole = vae.decode(latents).sample
        torch.testing.assert_close(decode_unclamped(vae, latents).clamp(-1, 1), whole, atol=1e-4, rtol=1e-3)


def test_one_key_for_all_the_padding_is_what_the_pipeline_computes(folder: Path) -> None:
    torch.manual_seed(0)
    build_autoencoder()
    model = Denoiser().to(torch.bfloat16).float().eval()
    pipe = WanPipeline.from_pretrained(folder, dtype=torch.float32)
    latents, timestep = torch.randn(2, LATENT_CHANNELS, 5, 4, 8), torch.tensor([900.0, 300.0])
    with torch.no_grad():
        embeddings, _ = pipe.encode_prompt(
            [PROMPT, ""], do_classifier_free_guidance=False, max_sequence_length=TEXT_TOKENS
        )
        theirs = pipe.transformer(latents, timestep, embeddings, return_dict=False)[0]
        torch.testing.assert_close(model(latents, timestep, [PROMPT, ""]), theirs, atol=2e-3, rtol=2e-3)


def test_one_set_of_weights_makes_clips_from_text_and_from_a_picture(folder: Path) -> None:
    common = {"width": 128, "height": 64, "num_frames": 17, "num_inference_steps": 2, "output_type": "np"}
    common["max_sequence_length"] = TEXT_TOKENS
    text = WanPipeline.from_pretrained(folder, dtype=torch.float32)
    image = WanImageToVideoPipeline(**text.components, expand_timesteps=True)
    picture = Image.fromarray(np.full((64, 128, 3), 90, np.uint8))
    for pipe, extra in ((text, {}), (image, {"image": picture})):
        pipe.set_progress_bar_config(disable=True)
        frames = pipe(prompt=PROMPT, generator=torch.Generator().manual_seed(0), **common, **extra).frames
        assert frames.shape == (1, 17, 64, 128, 3)
        assert np.isfinite(frames).all()


def test_a_few_steps_lower_the_loss() -> None:
    torch.manual_seed(2)
    model, generator = Denoiser(), torch.Generator().manual_seed(3)
    clean = torch.randn(2, LATENT_CHANNELS, 5, 4, 8) * 0.1 + torch.randn(1, LATENT_CHANNELS, 1, 1, 1)

    def measured() -> float:
        with torch.no_grad():
            return float(np.mean([_loss(seed).item() for seed in range(6)]))

    def _loss(seed: int) -> torch.Tensor:
        return loss_of(model, clean, [PROMPT] * 2, torch.Generator().manual_seed(seed), given=seed % 4 == 0)

    before = measured()
    both = optimisers(model, 1e-3)
    for step in range(16):
        loss_of(model, clean, [PROMPT] * 2, generator, given=step % 4 == 0).backward()
        for optimiser in both:
            optimiser.step()
        model.zero_grad()
    assert measured() < 0.9 * before


def test_the_pool_cuts_clips_and_renews_itself() -> None:
    pool = ClipPool(seed=1, size=3, renewed=1)
    batch = pool.batch(2, frames=9, width=64)
    assert batch.shape == (2, 3, 9, 64, 64)
    assert -1 <= batch.min() < batch.max() <= 1
    assert not torch.equal(batch, pool.batch(2, frames=9, width=64))


def test_the_rate_warms_up_stays_and_falls_to_nothing() -> None:
    shares = [share_at(step, 1000) for step in range(1000)]
    assert shares[0] < 0.05
    assert shares[50] == shares[399] == 1
    assert shares[-1] < 0.01
    assert all(share_at(step, 100, constant=1) == 1 for step in range(50, 100))
