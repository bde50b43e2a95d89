"""The ``tiny-wan`` model: a real, very small Wan pipeline with random weights, built in code.

It exists so that the whole line can be run and tested where no model can be downloaded. It is saved with
``save_pretrained`` and loaded by the same code as every other preset. Its weights are drawn from a fixed seed: its
clips are noise, and every output of it says so.
"""

import contextlib
import secrets
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

FOLDER = "tiny-wan-v1"
REVISION = "built-in-v1"
"""Raise both when a change here changes the weights: an old cache must not pass for the new model."""
WEIGHTS_SEED = 20_240_229
_COMPLETE = "model_index.json"
_LATENT_CHANNELS = 16
_TEXT_WIDTH = 32


def ensure_tiny_wan(cache_dir: Path) -> Path:
    """The folder of the built model; it is built on the first call.

    Two processes may call it at once: each builds into a folder of its own, and the first rename wins.
    """
    target = cache_dir / "models" / FOLDER
    if (target / _COMPLETE).exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.parent / f".{FOLDER}.{secrets.token_hex(6)}"
    try:
        build_pipeline().save_pretrained(draft)
        with contextlib.suppress(OSError):  # another process was first; its weights are the same
            draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    if not (target / _COMPLETE).exists():
        raise FileNotFoundError(f"{target} could not be built")
    return target


def build_pipeline() -> Any:
    """A ``WanPipeline`` of about 0.3 MB; the weights depend on ``WEIGHTS_SEED`` only, torch's RNG state is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(WEIGHTS_SEED)
        vae = AutoencoderKLWan(
            base_dim=4,
            z_dim=_LATENT_CHANNELS,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
        )
        transformer = WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=_LATENT_CHANNELS,
            out_channels=_LATENT_CHANNELS,
            text_dim=_TEXT_WIDTH,
            freq_dim=32,
            ffn_dim=32,
            num_layers=2,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=64,
        )
        tokenizer = _byte_tokenizer()
        text_encoder = _text_encoder(len(tokenizer))
    # The scheduler settings of the published Wan 2.1 pipelines, flow shift for 480p.
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
    )
    return WanPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae.eval(),
        scheduler=scheduler,
        transformer=transformer.eval(),
    )


def _text_encoder(vocab_size: int) -> Any:
    config = UMT5Config(
        vocab_size=vocab_size,
        d_model=_TEXT_WIDTH,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    return UMT5EncoderModel(config).eval()


def _byte_tokenizer() -> Any:
    """One token for each byte of the UTF-8 text, plus pad and end: any prompt can be encoded."""
    specials = ["<pad>", "</s>", "<unk>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate(specials + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", vocab["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )
