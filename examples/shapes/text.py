"""The tokenizer, built in code with one token a word, and the small text encoder."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from pipeline.scoring.shapes.words import VOCABULARY

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
    """Two layers, random weights."""
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
    return UMT5EncoderModel(config)
