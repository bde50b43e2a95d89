"""The tokenizer, built in code with one token a word, and the small text encoder."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from pipeline.scoring.shapes.words import MEANINGS, VOCABULARY

TEXT_WIDTH = 96
MAX_TOKENS = 512
_SPECIALS = ("<pad>", "</s>", "<unk>")


def build_tokenizer() -> Any:
    """One token for each word of the vocabulary; every other word is ``<unk>``."""
    vocab = {word: index for index, word in enumerate((*_SPECIALS, *VOCABULARY))}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocab, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", vocab["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=MAX_TOKENS
    )


def build_text_encoder() -> UMT5EncoderModel:
    """Two layers that change nothing yet, over embeddings in which words of one meaning are alike."""
    config = UMT5Config(
        vocab_size=len(_SPECIALS) + len(VOCABULARY),
        d_model=TEXT_WIDTH,
        d_kv=24,
        d_ff=192,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    encoder = UMT5EncoderModel(config)
    _begin_with_meanings(encoder)
    return encoder


@torch.no_grad()
def _begin_with_meanings(encoder: UMT5EncoderModel) -> None:
    """Orthogonal vectors, one for each meaning; words without one share a vector, and so do the special tokens."""
    meanings = list(dict.fromkeys(MEANINGS.get(word) for word in VOCABULARY))
    vectors = torch.linalg.qr(torch.randn(TEXT_WIDTH, len(meanings) + len(_SPECIALS)))[0].T * TEXT_WIDTH**0.5
    of_words = [vectors[len(_SPECIALS) + meanings.index(MEANINGS.get(word))] for word in VOCABULARY]
    table = torch.stack([*vectors[: len(_SPECIALS)], *of_words])
    encoder.shared.weight.copy_(table + 0.05 * torch.randn_like(table))
    for block in encoder.encoder.block:
        block.layer[0].SelfAttention.o.weight.zero_()
        block.layer[1].DenseReluDense.wo.weight.zero_()
