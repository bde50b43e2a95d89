"""CLAP (Wu et al. 2023): likeness of a sound and a text, by transformers' ``ClapModel``."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from numpy.typing import NDArray
from torch import Tensor
from transformers import ClapFeatureExtractor, ClapModel

from pipeline.scoring.models.sound.folder import load_folder, wrong
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
    model, features, tokenizer = load_folder(weights[0], ClapModel, ClapFeatureExtractor, "CLAP")
    if getattr(model.config.audio_config, "enable_fusion", False):
        folder = weights[0].path.parent
        raise wrong(folder, "it is a CLAP with fusion, which hears long sounds otherwise: take an unfused one")
    return Clap(model.to(device), features, tokenizer, device)
