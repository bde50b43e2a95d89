"""The similarity of a clip's frames by their features: the formula of subject and background consistency."""

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor


@torch.inference_mode()
def pair_scores(features: Tensor) -> list[float]:
    """Return each later frame's mean of its cosines with the one before and with the first, none below 0.

    ``features`` is (frames, width); the result has frames - 1 values of 0..1.
    """
    before = F.cosine_similarity(features[:-1], features[1:]).clamp(min=0)
    first = F.cosine_similarity(features[:1], features[1:]).clamp(min=0)
    return ((before.double() + first.double()) / 2).tolist()
