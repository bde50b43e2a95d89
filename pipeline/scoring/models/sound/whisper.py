"""Whisper (Radford et al. 2023): what is said in a sound, by transformers' model, without chance."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

from pipeline.scoring.models.sound.clap import windows
from pipeline.scoring.models.sound.folder import load_folder
from pipeline.scoring.weights import FoundWeights

WINDOW_S = 30
"""Whisper hears thirty seconds at once."""


class Whisper:
    def __init__(
        self, model: WhisperForConditionalGeneration, features: WhisperFeatureExtractor, tokenizer: Any, device: str
    ) -> None:
        self._model, self._features, self._tokenizer, self._device = model, features, tokenizer, device

    @property
    def rate(self) -> int:
        """The samples a second that it takes."""
        return int(self._features.sampling_rate)

    @torch.inference_mode()
    def transcript(self, samples: NDArray[np.float32]) -> str:
        """What is said, in the language that it is said in; windows of thirty seconds are heard one by one."""
        return " ".join(self._heard(window) for window in windows(samples, WINDOW_S * self.rate)).strip()

    def _heard(self, window: NDArray[np.float32]) -> str:
        heard = self._features(window, sampling_rate=self.rate, return_tensors="pt", return_attention_mask=True)
        inputs = {name: heard[name].to(self._device) for name in ("input_features", "attention_mask")}
        multilingual = getattr(self._model.generation_config, "is_multilingual", False)
        task = {"task": "transcribe"} if multilingual else {}
        tokens = self._model.generate(**inputs, do_sample=False, num_beams=1, **task)
        return str(self._tokenizer.decode(tokens[0], skip_special_tokens=True)).strip()


def load(weights: Sequence[FoundWeights], device: str) -> Whisper:
    """Load from a folder as on the hub. Raises RefusedError, code ``eval_weights_wrong``."""
    model, features, tokenizer = load_folder(
        weights[0], WhisperForConditionalGeneration, WhisperFeatureExtractor, "Whisper"
    )
    return Whisper(model.to(device), features, tokenizer, device)
