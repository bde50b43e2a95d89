"""CLIP's likeness of frames and a text: appearance_style."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from pipeline.scoring.clip import Clip
from pipeline.scoring.models import pixels
from pipeline.scoring.models.openai_clip import ClipImages
from pipeline.scoring.models.tokens import Tokens, load_tokens
from pipeline.scoring.weights import FoundWeights


class TextTooLongError(ValueError):
    """CLIP takes 77 tokens, and refuses more."""


class ClipWithText:
    def __init__(self, images: ClipImages, tokens: Tokens, device: str) -> None:
        self._images, self._tokens, self._device = images, tokens, device
        self._model = images.model

    @torch.inference_mode()
    def likeness(self, clip: Clip, text: str) -> list[float]:
        """CLIP's logit of each frame with the text (cosine times its learnt scale), over 100.

        Raises:
            TextTooLongError: the text has too many tokens.
        """
        images = self._of(clip)
        scale = self._model.logit_scale.exp().cpu()
        logits = (scale * self._text(text) @ images.t()).float()
        return [value / 100 for value in logits[0].tolist()]

    @torch.inference_mode()
    def cosines(self, clip: Clip, text: str) -> tuple[list[float], bool]:
        """CLIP's cosine of each frame with the text, and whether the text had to be cut to CLIP's length."""
        ids, most = self._tokens.ids(text), self._model.config.text_config.max_position_embeddings
        cut = len(ids) > most
        feature = self._feature([*ids[: most - 1], self._tokens.end] if cut else ids)
        return (self._of(clip) @ feature.t())[:, 0].float().tolist(), cut

    def _of(self, clip: Clip) -> Tensor:
        """Features of the frames as PIL shrinks them, (frames, embedding)."""
        return clip.once(("clip_b32 by PIL", id(self)), lambda: self._images.features(clip, pixels.for_clip_by_pil))

    def _text(self, text: str) -> Tensor:
        ids = self._tokens.ids(text)
        most = self._model.config.text_config.max_position_embeddings
        if len(ids) > most:
            raise TextTooLongError(f"the text has {len(ids)} tokens; CLIP takes at most {most}")
        return self._feature(ids)

    def _feature(self, ids: list[int]) -> Tensor:
        features = self._model.get_text_features(input_ids=torch.tensor([ids], device=self._device))
        return F.normalize(features.pooler_output.float().cpu(), dim=-1)


def load(weights: Sequence[FoundWeights], device: str, images: ClipImages) -> ClipWithText:
    """Load from a loaded CLIP and its vocabulary. Raises RefusedError, code ``eval_weights_wrong``."""
    return ClipWithText(images, load_tokens(weights[0].path), device)
