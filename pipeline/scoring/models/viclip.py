"""ViCLIP (Wang et al. 2023): CLIP whose image tower sees the patches of eight frames at once. transformers has none."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from pipeline.scoring.clip import Clip
from pipeline.scoring.models import pixels, weight_reader
from pipeline.scoring.models.tokens import Tokens, load_tokens
from pipeline.scoring.models.vit import ClipTransformer
from pipeline.scoring.models.weight_reader import State
from pipeline.scoring.weights import FoundWeights


class VideoTower(nn.Module):
    """(1, T, 3, 224, 224) to (1, embedding). One class token for the whole video."""

    def __init__(
        self, width: int, depth: int, heads: int, patch: int, positions: int, frames: int, embedding: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, width, (1, patch, patch), (1, patch, patch), bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(positions, width))
        self.temporal_positional_embedding = nn.Parameter(torch.zeros(1, frames, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = ClipTransformer(width, depth, heads)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.zeros(width, embedding))

    def forward(self, video: Tensor) -> Tensor:
        patches = self.conv1(video.transpose(1, 2)).flatten(3)  # (1, width, T, patches)
        patches = patches.permute(0, 3, 2, 1) + self.positional_embedding[1:, None]  # (1, patches, T, width)
        # Tokens are ordered by place and then by time.
        patches = (patches + self.temporal_positional_embedding).flatten(1, 2)
        first = (self.class_embedding + self.positional_embedding[0]).expand(len(video), 1, -1)
        tokens = self.transformer(self.ln_pre(torch.cat([first, patches], dim=1)))
        feature: Tensor = self.ln_post(tokens[:, 0]) @ self.proj
        return feature


class TextTower(nn.Module):
    """Ids (1, at most 32) to (1, embedding), read at the last token."""

    def __init__(self, width: int, depth: int, heads: int, positions: int, vocabulary: int, embedding: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.zeros(positions, width))
        self.transformer = ClipTransformer(width, depth, heads)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.zeros(width, embedding))

    def forward(self, ids: Tensor) -> Tensor:
        count = ids.shape[1]
        tokens = self.token_embedding(ids) + self.positional_embedding[:count]
        ahead = torch.full((count, count), float("-inf"), device=ids.device).triu(1)
        tokens = self.ln_final(self.transformer(tokens, ahead))
        feature: Tensor = tokens[:, -1] @ self.text_projection
        return feature


class ViClip:
    def __init__(self, video: VideoTower, text: TextTower, tokens: Tokens, device: str) -> None:
        self._video, self._text, self._tokens, self._device = video, text, tokens, device

    @torch.inference_mode()
    def video(self, clip: Clip) -> Tensor:
        """Unit feature of the eight middle frames, (1, embedding), on the CPU."""
        frame_count = self._video.temporal_positional_embedding.shape[1]
        frames = clip.frames[pixels.middle(len(clip.frames), frame_count)]
        return F.normalize(self._video(pixels.for_viclip(frames, self._device)[None]).float().cpu(), dim=-1)

    @torch.inference_mode()
    def text(self, prompt: str) -> Tensor:
        """Unit feature, (1, embedding), on the CPU. A long prompt is cut, its last token becoming the end."""
        ids = self._tokens.ids(prompt)
        most = self._text.positional_embedding.shape[0]
        if len(ids) > most:
            ids = [*ids[: most - 1], self._tokens.end]
        return F.normalize(self._text(torch.tensor([ids], device=self._device)).float().cpu(), dim=-1)


def load(weights: Sequence[FoundWeights], device: str) -> ViClip:
    """Load from the released file and CLIP's vocabulary. Raises RefusedError, code ``eval_weights_wrong``."""
    path = weights[0].path
    state = weight_reader.read_state(path, "model")
    video, text = (
        _video_tower(_part(state, "vision_encoder."), weights[0]),
        _text_tower(_part(state, "text_encoder."), weights[0]),
    )
    weight_reader.same(video.proj.shape[1], text.text_projection.shape[1], "the embeddings of video and text", path)
    return ViClip(video.eval().to(device), text.eval().to(device), load_tokens(weights[1].path), device)


def _part(state: State, prefix: str) -> State:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _video_tower(state: State, weights: FoundWeights) -> VideoTower:
    path = weights.path
    width = weight_reader.size(state, "conv1.weight", path)
    tower = VideoTower(
        width,
        weight_reader.depth(state, "transformer.resblocks.", path),
        weight_reader.heads(width, path),
        weight_reader.size(state, "conv1.weight", path, 3),
        weight_reader.size(state, "positional_embedding", path),
        weight_reader.size(state, "temporal_positional_embedding", path, 1),
        weight_reader.size(state, "proj", path, 1),
    )
    weight_reader.fill(tower, state, path)
    return tower


def _text_tower(state: State, weights: FoundWeights) -> TextTower:
    path = weights.path
    width = weight_reader.size(state, "ln_final.weight", path)
    tower = TextTower(
        width,
        weight_reader.depth(state, "transformer.resblocks.", path),
        weight_reader.heads(width, path),
        weight_reader.size(state, "positional_embedding", path),
        weight_reader.size(state, "token_embedding.weight", path),
        weight_reader.size(state, "text_projection", path, 1),
    )
    weight_reader.fill(tower, state, path)
    return tower
