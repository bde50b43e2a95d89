"""OpenAI's CLIP (Radford et al. 2021) by transformers' ``CLIPModel``, from OpenAI's file or the hub's copy."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor
from transformers import CLIPConfig, CLIPModel
from transformers.utils import logging as transformers_logging

from pipeline.errors import RefusedError
from pipeline.scoring.clip import Clip, Frames
from pipeline.scoring.models import pixels, weight_reader
from pipeline.scoring.models.weight_reader import State
from pipeline.scoring.weights import FoundWeights


class ClipImages:
    """Image features of clips."""

    def __init__(self, model: CLIPModel, device: str) -> None:
        self.model, self._device = model, device

    @torch.inference_mode()
    def features(self, clip: Clip, prepare: Callable[[Frames, str], Tensor] = pixels.for_clip) -> Tensor:
        """Unit length, (frames, embedding), on the CPU."""
        parts = []
        for part in pixels.batches(clip.frames):
            features = self.model.get_image_features(pixel_values=prepare(part, self._device))
            parts.append(features.pooler_output)
        return F.normalize(torch.cat(parts).float().cpu(), dim=-1)


def load(weights: Sequence[FoundWeights], device: str) -> ClipImages:
    """The model. Raises RefusedError, code ``eval_weights_wrong``."""
    return ClipImages(load_model(weights[0], device), device)


def load_model(weights: FoundWeights, device: str) -> CLIPModel:
    """The whole of CLIP, float32. Raises RefusedError, code ``eval_weights_wrong``."""
    transformers_logging.disable_progress_bar()
    if weights.hub:
        try:
            model, report = CLIPModel.from_pretrained(
                weights.path.parent, local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            message = f"weights {weights.path.parent}: {str(error).strip().splitlines()[0]}"
            raise RefusedError(message, code="eval_weights_wrong") from error
        return _whole(model, report, weights.path.parent).eval().to(device)
    state = weight_reader.read_state(weights.path)
    config = _config(state, weights)
    renamed = _hub_keys(state)
    try:
        model, report = CLIPModel.from_pretrained(None, config=config, state_dict=renamed, output_loading_info=True)
    except (RuntimeError, ValueError) as error:  # a tensor of another width
        message = f"weights {weights.path}: {str(error).strip().splitlines()[-1].strip()}"
        raise RefusedError(message, code="eval_weights_wrong") from error
    return _whole(model, report, weights.path).eval().to(device)


def _whole(model: CLIPModel, report: dict[str, Any], path: Path) -> CLIPModel:
    """The model, where its files had every tensor and no others; where they had not, the loader filled it with noise.

    Raises:
        RefusedError: code ``eval_weights_wrong``.
    """
    computed = tuple(name.rpartition(".")[2] for name, _ in model.named_buffers())  # older files have position ids
    extra = [name for name in report["unexpected_keys"] if name.rpartition(".")[2] not in computed]
    lost = [*report["missing_keys"], *extra, *report["mismatched_keys"]]
    if lost:
        raise RefusedError(
            f"weights {path}: no CLIP, by {sorted(map(str, lost))[0]} ({len(lost)} tensors differ)",
            code="eval_weights_wrong",
        )
    return model


def _config(state: State, weights: FoundWeights) -> CLIPConfig:
    """Every size follows from the weights, as in OpenAI's own loader."""
    path = weights.path
    width = weight_reader.size(state, "visual.conv1.weight", path)
    patch = weight_reader.size(state, "visual.conv1.weight", path, 2)
    positions = weight_reader.size(state, "visual.positional_embedding", path) - 1
    grid = weight_reader.square(positions, "visual.positional_embedding", path)
    text = weight_reader.size(state, "ln_final.weight", path)
    vocabulary = weight_reader.size(state, "token_embedding.weight", path)
    return CLIPConfig(
        projection_dim=weight_reader.size(state, "text_projection", path, 1),
        vision_config={
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": weight_reader.depth(state, "visual.transformer.resblocks.", path),
            "num_attention_heads": weight_reader.heads(width, path),
            "patch_size": patch,
            "image_size": patch * grid,
        },
        text_config={
            "hidden_size": text,
            "intermediate_size": 4 * text,
            "num_hidden_layers": weight_reader.depth(state, "transformer.resblocks.", path),
            "num_attention_heads": weight_reader.heads(text, path),
            "vocab_size": vocabulary,
            "max_position_embeddings": weight_reader.size(state, "positional_embedding", path),
            "bos_token_id": vocabulary - 2,
            "eos_token_id": vocabulary - 1,
        },
    )


_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "attn_mask")
"""Tensors of OpenAI's archives that are not weights."""
_RENAMED = (
    ("visual.transformer.resblocks.", "vision_model.encoder.layers."),
    ("visual.conv1.", "vision_model.embeddings.patch_embedding."),
    ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ("visual.ln_pre.", "vision_model.pre_layrnorm."),
    ("visual.ln_post.", "vision_model.post_layernorm."),
    ("visual.proj", "visual_projection.weight"),
    ("token_embedding.", "text_model.embeddings.token_embedding."),
    ("ln_final.", "text_model.final_layer_norm."),
)
_IN_BLOCKS = ((".ln_1.", ".layer_norm1."), (".ln_2.", ".layer_norm2."), (".c_fc.", ".fc1."), (".c_proj.", ".fc2."))


def _hub_keys(state: State) -> State:
    """The keys of the hub's checkpoints, from OpenAI's."""
    renamed: State = {}
    for key, value in state.items():
        if key.rpartition(".")[2] in _NOT_WEIGHTS:
            continue
        name = _renamed(key)
        if ".attn.in_proj_" in name:
            for part, piece in zip(("q_proj", "k_proj", "v_proj"), value.chunk(3), strict=True):
                renamed[name.replace("attn.in_proj_", f"self_attn.{part}.")] = piece.clone()
        else:
            transposed = name in ("visual_projection.weight", "text_projection.weight")
            renamed[name.replace(".attn.", ".self_attn.")] = value.t().contiguous() if transposed else value
    return renamed


def _renamed(key: str) -> str:
    if key == "positional_embedding":
        return "text_model.embeddings.position_embedding.weight"
    if key == "text_projection":
        return "text_projection.weight"
    if key.startswith("transformer.resblocks."):
        key = key.replace("transformer.resblocks.", "text_model.encoder.layers.")
    for old, new in (*_RENAMED, *_IN_BLOCKS):
        key = key.replace(old, new)
    return key
