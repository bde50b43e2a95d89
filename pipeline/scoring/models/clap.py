"""CLAP (Wu et al. 2023): likeness of a sound and a text, by transformers' ``ClapModel``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel
from transformers.utils import logging as transformers_logging

from pipeline.errors import RefusedError
from pipeline.scoring.weights import FoundWeights

WINDOW_S = 10
"""CLAP hears ten seconds at once."""


class Clap:
    def __init__(self, model: ClapModel, features: ClapFeatureExtractor, tokenizer: Any, device: str) -> None:
        self._model, self._features, self._tokenizer, self._device = model, features, tokenizer, device

    @property
    def rate(self) -> int:
        """The samples a second that it takes."""
        return int(self._features.sampling_rate)

    @torch.inference_mode()
    def likeness(self, samples: NDArray[np.float32], text: str) -> list[float]:
        """The cosine of the text with each window of ten seconds; the last is repeated until it fills one."""
        tokens = self._tokenizer(text, return_tensors="pt", truncation=True, max_length=self._most_tokens())
        ids, mask = (tokens[name].to(self._device) for name in ("input_ids", "attention_mask"))
        wanted = self._unit(self._model.get_text_features(input_ids=ids, attention_mask=mask))
        cosines = []
        for window in windows(samples, WINDOW_S * self.rate):
            # No window is longer than the model hears: nothing is left to chance, as it would be in the extractor.
            heard = self._features(window, sampling_rate=self.rate, return_tensors="pt", truncation="rand_trunc")
            parts = {name: heard[name].to(self._device) for name in ("input_features", "is_longer")}
            cosines.append(float(self._unit(self._model.get_audio_features(**parts)) @ wanted.t()))
        return cosines

    def _most_tokens(self) -> int:
        return int(self._model.config.text_config.max_position_embeddings) - 2  # RoBERTa counts places from 2

    @staticmethod
    def _unit(features: Any) -> Tensor:
        return F.normalize(features.pooler_output.float().cpu(), dim=-1)


def windows(samples: NDArray[np.float32], length: int) -> list[NDArray[np.float32]]:
    """The samples in runs of ``length``; the last one may be shorter."""
    return [samples[start : start + length] for start in range(0, len(samples), length)]


def load(weights: Sequence[FoundWeights], device: str) -> Clap:
    """Load from a folder as on the hub. Raises RefusedError, code ``eval_weights_wrong``."""
    folder = weights[0].path.parent
    transformers_logging.disable_progress_bar()
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise _wrong(folder, "it has no tokenizer.json or vocab.json: without a vocabulary every word is the same")
    try:
        model, report = ClapModel.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
        features = ClapFeatureExtractor.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError, TypeError) as error:
        raise _wrong(folder, str(error).strip().splitlines()[0]) from error
    buffers = tuple(name.rpartition(".")[2] for name, _ in model.named_buffers())  # older files have position ids
    extra = [name for name in report["unexpected_keys"] if name.rpartition(".")[2] not in buffers]
    lost = sorted(map(str, [*report["missing_keys"], *extra, *report["mismatched_keys"]]))
    if lost:
        raise _wrong(folder, f"its tensors are not CLAP's, by {lost[0]} ({len(lost)} differ)")
    if getattr(model.config.audio_config, "enable_fusion", False):
        raise _wrong(folder, "it is a CLAP with fusion, which hears long sounds otherwise: take an unfused one")
    return Clap(model.eval().to(device), features, tokenizer, device)


def _wrong(folder: Path, why: str) -> RefusedError:
    return RefusedError(f"weights {folder}: {why}", code="eval_weights_wrong")
