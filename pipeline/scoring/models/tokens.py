"""CLIP's tokens from its vocabulary file, by transformers' tokenizer."""

import gzip
import html
from pathlib import Path

import ftfy
from transformers import CLIPTokenizer

from pipeline.errors import RefusedError

_MOST_MERGES = 49152 - 256 - 2
"""The file holds more than CLIP uses."""


class Tokens:
    """Texts to ids. ``start`` and ``end`` enclose every text; ``end`` is the highest id."""

    def __init__(self, merges: list[tuple[str, str]]) -> None:
        vocabulary = _vocabulary(merges)
        self._tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges)
        self.start, self.end = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]

    def ids(self, text: str) -> list[int]:
        """Return the tokens with both ends. Text is mended (mojibake, HTML entities) like in official tokenizers."""
        mended = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
        inner: list[int] = self._tokenizer(mended, add_special_tokens=False)["input_ids"]
        return [self.start, *inner, self.end]


def load_tokens(path: Path) -> Tokens:
    """Read ``bpe_simple_vocab_16e6.txt.gz``. Raises RefusedError, code ``eval_weights_wrong``."""
    try:
        lines = gzip.decompress(path.read_bytes()).decode().split("\n")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise RefusedError(f"vocabulary {path}: {error}", code="eval_weights_wrong") from error
    pairs = [line.split() for line in lines[1 : _MOST_MERGES + 1]]
    merges = [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]
    if not merges:
        raise RefusedError(f"vocabulary {path}: it holds no merges", code="eval_weights_wrong")
    return Tokens(merges)


def _vocabulary(merges: list[tuple[str, str]]) -> dict[str, int]:
    letters = _letters()
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    return {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}


def _letters() -> list[str]:
    """A printable character for each byte, in CLIP's order: printable bytes stand for themselves and come first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    unprintable = 256 - len(printable)
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(unprintable)]
