"""Small random weights of the real architectures, in the official files' names and keys.

Widths and depths are small; patch and picture sizes, heads of 64 and key names are the real ones. RAFT has its real
size. The numbers come from numpy's frozen ``RandomState``, seeded by each key, so that every machine makes the same.
CLIP's values fit in half precision, as in the official files: the official loader rounds to it.
"""

from __future__ import annotations

import gzip
import json
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

Shapes = dict[str, tuple[int, ...]]

MERGES = (
    "t h", "a n", "i n", "th e</w>", "o n", "e r", "r i", "i d", "in g</w>", "p e", "pe r", "s on</w>", "a r",
    "a t", "o n</w>", "i s</w>", "a n</w>", "e n", "b i", "k e</w>", "bi ke</w>", "ri d", "rid ing</w>", "c a", "s t",
)  # fmt: skip
VOCABULARY = 512 + len(MERGES) + 2


def write_all(folder: Path, *, full_size: bool = False) -> None:
    """Every file that the native metrics need, under its official name.

    The files take about 25 MB, or with ``full_size`` about 5 GB: then widths and depths are those of the released
    models (but for the vocabulary), so that a score takes as long as with released weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_bpe(folder / "bpe_simple_vocab_16e6.txt.gz")
    for name, (shapes, gain) in plain(full_size=full_size).items():
        torch.save(weights(shapes, gain), folder / name)
    heads = weights(lpips_heads(FULL_LPIPS_WIDTHS if full_size else LPIPS_WIDTHS), 1.0)
    torch.save({key: value.abs() for key, value in heads.items()}, folder / "alex.pth")
    video = viclip(1024, 768, 768, 24, text_depth=12) if full_size else viclip()
    torch.save({"model": weights(video, 2.0)}, folder / "ViClip-InternVid-10M-FLT.pth")
    for name, shapes in clips(full_size=full_size).items():
        made = {key: value.half() for key, value in weights(shapes, 2.0).items()}
        made["logit_scale"] = torch.tensor(4.6052).half()
        _save_as_torchscript(made, folder / name)


def write_dreamsim(folder: Path) -> None:
    """The files of DreamSim's ensemble; its DINO has all twelve blocks, since the authors' code reads the twelfth."""
    (folder / "ensemble_lora").mkdir(parents=True, exist_ok=True)
    torch.save(weights(dino(64, 12), 2.0), folder / "dino_vitbase16_pretrain.pth")
    for name, depth in (("clip_vitb16_pretrain.pth.tar", 2), ("open_clip_vitb16_pretrain.pth.tar", 3)):
        tower = {f"{name}.{key}": shape for key, shape in dreamsim_tower(64, depth, 32).items()}
        state = {key.removeprefix(f"{name}."): value for key, value in weights(tower, 2.0).items()}
        torch.save({"state_dict": state}, folder / name)
    save_file(weights(dreamsim_lora(64, (12, 2, 3)), 2.0), folder / "ensemble_lora/adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 1.0, "lora_dropout": 0.3, "bias": "none"}
    text = json.dumps({**config, "target_modules": ["qkv"], "inference_mode": True, "use_dora": False}, indent=1)
    (folder / "ensemble_lora/adapter_config.json").write_text(text, "utf-8")


def clips(*, full_size: bool) -> dict[str, Shapes]:
    """OpenAI's two CLIP files."""
    if not full_size:
        return {"ViT-B-32.pt": clip(32, 49, 64), "ViT-L-14.pt": clip(14, 256, 768)}
    return {
        "ViT-B-32.pt": clip(32, 49, 512, 768, 512, 12, text_depth=12),
        "ViT-L-14.pt": clip(14, 256, 768, 1024, 768, 24, text_depth=12),
    }


def _save_as_torchscript(state: dict[str, torch.Tensor], path: Path) -> None:
    """The archive format of OpenAI's CLIP files."""
    top = torch.nn.Module()
    for key, value in state.items():
        *parents, name = key.split(".")
        holder = top
        for parent in parents:
            if not hasattr(holder, parent):
                holder.add_module(parent, torch.nn.Module())
            holder = getattr(holder, parent)
        holder.register_parameter(name, torch.nn.Parameter(value, requires_grad=False))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls the format old, but the official files have it
        torch.jit.script(top).save(str(path))


def write_bpe(path: Path) -> None:
    """A vocabulary file of the real format with few merges."""
    with path.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as file:
        file.write(("#version: 0.2\n" + "\n".join(MERGES)).encode())


def weights(shapes: Shapes, gain: float) -> dict[str, torch.Tensor]:
    """Matrices scaled by their inputs, so that signals neither vanish nor grow; norms near 1; all of it lively."""
    return {key: _tensor(key, shape, gain) for key, shape in shapes.items()}


def _tensor(key: str, shape: tuple[int, ...], gain: float) -> torch.Tensor:
    key = key.replace(".downsample.1.", ".norm3.")  # RAFT's files name these tensors twice
    random = np.random.RandomState(zlib.crc32(key.encode()))
    if key.endswith("num_batches_tracked"):
        return torch.tensor(1)
    values = random.standard_normal(shape)
    if key.endswith("running_var"):
        values = 1.0 + 0.2 * np.abs(values)
    elif "norm" in key or ".ln_" in key or "gn" in key:
        values = 0.1 * values + (1.0 if key.endswith("weight") else 0.0)
    elif len(shape) > 1 and not any(part in key for part in ("embed", "token", "_emb", "cls")):
        values *= gain / np.sqrt(np.prod(shape[1:]))
    elif "patch_embed" in key:
        values *= gain / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.1
    elif len(shape) > 1:
        values *= 0.5
    else:
        values *= 0.1
    if "flow_head.conv2" in key:
        values *= 0.01  # flows of some pixels, not of hundreds: about dynamic_degree's limit
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def dino(width: int = 128, depth: int = 2) -> Shapes:
    shapes: Shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 197, width),
        "patch_embed.proj.weight": (width, 3, 16, 16),
        "patch_embed.proj.bias": (width,),
        **_pair("norm", width),
    }
    for i in range(depth):
        shapes |= _timm_block(f"blocks.{i}.", width, fused_bias=True)
    return shapes


def dreamsim_tower(width: int, depth: int, embed: int) -> Shapes:
    return {**dino(width, depth), **_pair("pos_drop", width), "proj": (width, embed)}


def dreamsim_lora(width: int, depths: tuple[int, ...], rank: int = 4) -> Shapes:
    shapes: Shapes = {}
    for number, depth in enumerate(depths):
        for block in range(depth):
            at = f"base_model.model.extractor_list.{number}.model.blocks.{block}.attn.qkv.lora_"
            shapes |= {f"{at}A.weight": (rank, width), f"{at}B.weight": (3 * width, rank)}
    return shapes


def umt(width: int = 128, depth: int = 2) -> Shapes:
    shapes: Shapes = {
        "patch_embed.proj.weight": (width, 3, 1, 16, 16),
        "patch_embed.proj.bias": (width,),
        **_pair("fc_norm", width),
        "head.weight": (400, width),
        "head.bias": (400,),
    }
    for i in range(depth):
        shapes |= _timm_block(f"blocks.{i}.", width, fused_bias=False)
    return shapes


def _timm_block(at: str, width: int, *, fused_bias: bool) -> Shapes:
    bias: Shapes = {"attn.qkv.bias": (3 * width,)} if fused_bias else {"attn.q_bias": (width,), "attn.v_bias": (width,)}
    shapes: Shapes = {
        **_pair("norm1", width),
        "attn.qkv.weight": (3 * width, width),
        **bias,
        **_linear("attn.proj", width, width),
        **_pair("norm2", width),
        **_linear("mlp.fc1", width, 4 * width),
        **_linear("mlp.fc2", 4 * width, width),
    }
    return {at + key: shape for key, shape in shapes.items()}


def clip(
    patch: int, patches: int, embed: int, width: int = 128, text: int = 64, depth: int = 2, *, text_depth: int = 2
) -> Shapes:
    shapes: Shapes = {
        "visual.conv1.weight": (width, 3, patch, patch),
        "visual.class_embedding": (width,),
        "visual.positional_embedding": (patches + 1, width),
        **_pair("visual.ln_pre", width),
        **_pair("visual.ln_post", width),
        "visual.proj": (width, embed),
        "positional_embedding": (77, text),
        "text_projection": (text, embed),
        "token_embedding.weight": (VOCABULARY, text),
        **_pair("ln_final", text),
        "logit_scale": (),
    }
    for i in range(depth):
        shapes |= _clip_block(f"visual.transformer.resblocks.{i}.", width)
    for i in range(text_depth):
        shapes |= _clip_block(f"transformer.resblocks.{i}.", text)
    return shapes


def viclip(width: int = 128, text: int = 64, embed: int = 64, depth: int = 2, *, text_depth: int = 2) -> Shapes:
    shapes: Shapes = {
        "temp": (),
        "vision_encoder.conv1.weight": (width, 3, 1, 14, 14),
        "vision_encoder.class_embedding": (width,),
        "vision_encoder.positional_embedding": (257, width),
        "vision_encoder.temporal_positional_embedding": (1, 8, width),
        **_pair("vision_encoder.ln_pre", width),
        **_pair("vision_encoder.ln_post", width),
        "vision_encoder.proj": (width, embed),
        "text_encoder.positional_embedding": (32, text),
        "text_encoder.text_projection": (text, embed),
        "text_encoder.token_embedding.weight": (VOCABULARY, text),
        **_pair("text_encoder.ln_final", text),
    }
    for i in range(depth):
        shapes |= _clip_block(f"vision_encoder.transformer.resblocks.{i}.", width)
    for i in range(text_depth):
        shapes |= _clip_block(f"text_encoder.transformer.resblocks.{i}.", text)
    return shapes


def _clip_block(at: str, width: int) -> Shapes:
    shapes: Shapes = {
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        **_linear("attn.out_proj", width, width),
        **_pair("ln_1", width),
        **_linear("mlp.c_fc", width, 4 * width),
        **_linear("mlp.c_proj", 4 * width, width),
        **_pair("ln_2", width),
    }
    return {at + key: shape for key, shape in shapes.items()}


def musiq(width: int = 128, depth: int = 2, hidden: int = 128) -> Shapes:
    shapes: Shapes = {
        "conv_root.weight": (64, 3, 7, 7),
        **_pair("gn_root", 64),
        "block1.conv1.weight": (64, 64, 1, 1),
        "block1.conv2.weight": (64, 64, 3, 3),
        "block1.conv3.weight": (256, 64, 1, 1),
        "block1.conv_proj.weight": (256, 64, 1, 1),
        **_pair("block1.gn1", 64),
        **_pair("block1.gn2", 64),
        **_pair("block1.gn3", 256),
        **_pair("block1.gn_proj", 256),
        **_linear("embedding", 256 * 64, width),
        "transformer_encoder.posembed_input.position_emb": (1, 100, width),
        "transformer_encoder.scaleembed_input.scale_emb": (3, width),
        "transformer_encoder.cls": (1, 1, width),
        **_pair("transformer_encoder.encoder_norm", width),
        **_linear("head", width, 1),
    }
    for i in range(depth):
        at = f"transformer_encoder.transformer.encoderblock_{i}."
        for part in ("query", "key", "value", "out"):
            shapes |= _linear(f"{at}attention.{part}", width, width)
        shapes |= _pair(f"{at}norm1", width) | _pair(f"{at}norm2", width)
        shapes |= _linear(f"{at}mlp.fc1", width, hidden) | _linear(f"{at}mlp.fc2", hidden, width)
    return shapes


def raft() -> Shapes:
    shapes: Shapes = {}
    for net, out, batch_norm in (("fnet", 256, False), ("cnet", 256, True)):
        shapes |= dict(_raft_encoder(net, out, batch_norm))
    update = {
        "encoder.convc1": (256, 324, 1, 1), "encoder.convc2": (192, 256, 3, 3),
        "encoder.convf1": (128, 2, 7, 7), "encoder.convf2": (64, 128, 3, 3), "encoder.conv": (126, 256, 3, 3),
        "flow_head.conv1": (256, 128, 3, 3), "flow_head.conv2": (2, 256, 3, 3),
        "mask.0": (256, 128, 3, 3), "mask.2": (576, 256, 1, 1),
    }  # fmt: skip
    update |= {f"gru.conv{gate}1": (128, 384, 1, 5) for gate in "zrq"}
    update |= {f"gru.conv{gate}2": (128, 384, 5, 1) for gate in "zrq"}
    for name, shape in update.items():
        shapes |= {f"update_block.{name}.weight": shape, f"update_block.{name}.bias": shape[:1]}
    return {f"module.{key}": shape for key, shape in shapes.items()}


def _raft_encoder(net: str, out: int, batch_norm: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    def conv(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{net}.{name}.weight", shape
        yield f"{net}.{name}.bias", shape[:1]

    def norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        if batch_norm:
            for part in ("weight", "bias", "running_mean", "running_var"):
                yield f"{net}.{name}.{part}", (width,)
            yield f"{net}.{name}.num_batches_tracked", ()

    yield from norm("norm1", 64)
    yield from conv("conv1", 64, 3, 7, 7)
    before = 64
    for layer, width in ((1, 64), (2, 96), (3, 128)):
        for block in (0, 1):
            at = f"layer{layer}.{block}"
            yield from conv(f"{at}.conv1", width, before, 3, 3)
            yield from conv(f"{at}.conv2", width, width, 3, 3)
            yield from norm(f"{at}.norm1", width)
            yield from norm(f"{at}.norm2", width)
            if layer > 1 and block == 0:
                yield from norm(f"{at}.norm3", width)
                yield from conv(f"{at}.downsample.0", width, before, 1, 1)
                yield from norm(f"{at}.downsample.1", width)
            before = width
    yield from conv("conv2", out, 128, 1, 1)


LPIPS_WIDTHS = (8, 12, 16, 12, 10)
FULL_LPIPS_WIDTHS = (64, 192, 384, 256, 256)


def alexnet(widths: tuple[int, ...] = LPIPS_WIDTHS) -> Shapes:
    """The convolutions, and a layer of the classifier, which LPIPS does not use."""
    shapes: Shapes = {}
    before = 3
    for index, side, width in zip((0, 3, 6, 8, 10), (11, 5, 3, 3, 3), widths, strict=True):
        shapes |= {f"features.{index}.weight": (width, before, side, side), f"features.{index}.bias": (width,)}
        before = width
    return shapes | _linear("classifier.6", 16, 10)


def lpips_heads(widths: tuple[int, ...] = LPIPS_WIDTHS) -> Shapes:
    return {f"lin{number}.model.1.weight": (1, width, 1, 1) for number, width in enumerate(widths)}


def _pair(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def plain(*, full_size: bool) -> dict[str, tuple[Shapes, float]]:
    """The files that are one dictionary of tensors, with the gain of their matrices."""
    return {
        "dino_vitbase16_pretrain.pth": (dino(768, 12) if full_size else dino(), 2.0),
        "sa_0_4_vit_l_14_linear.pth": ({"weight": (1, 768), "bias": (1,)}, 40.0),
        "musiq_spaq_ckpt-358bb6af.pth": (musiq(384, 14, 1152) if full_size else musiq(), 1.0),
        "raft-things.pth": (raft(), 1.4),
        "l16_ptk710_ftk710_ftk400_f16_res224.pth": (umt(1024, 24) if full_size else umt(), 2.0),
        "alexnet-owt-7be5be79.pth": (alexnet(FULL_LPIPS_WIDTHS if full_size else LPIPS_WIDTHS), 1.5),
    }
