"""LAION's linear aesthetic head on CLIP ViT-L/14: the 2022 ``sa_0_4`` head, not the later one with hidden layers."""

from collections.abc import Sequence

import torch
from torch import nn

from pipeline.scoring.clip import Clip
from pipeline.scoring.models import weight_reader
from pipeline.scoring.models.openai_clip import ClipImages, load_model
from pipeline.scoring.weights import FoundWeights


class Aesthetic:
    def __init__(self, images: ClipImages, head: nn.Linear) -> None:
        self._images, self._head = images, head

    @torch.inference_mode()
    def ratings(self, clip: Clip) -> torch.Tensor:
        """Rating of each frame, about 0..10, (frames,)."""
        ratings: torch.Tensor = self._head(self._images.features(clip)).squeeze(-1)
        return ratings.float()


def load(weights: Sequence[FoundWeights], device: str) -> Aesthetic:
    """Load from CLIP's weights and the head's. Raises RefusedError, code ``eval_weights_wrong``."""
    state = weight_reader.read_state(weights[1].path)
    head = nn.Linear(weight_reader.size(state, "weight", weights[1].path, 1), 1)
    weight_reader.fill(head, state, weights[1].path)
    model = load_model(weights[0], device)
    what = f"the head's inputs and the features of {weights[0].path.name}"
    weight_reader.same(head.in_features, model.config.projection_dim, what, weights[1].path)
    return Aesthetic(ClipImages(model, device), head.eval())
