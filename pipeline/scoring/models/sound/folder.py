"""Models of sound from folders as on the hub: weights, configuration, feature extractor and vocabulary, all whole."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

from pipeline.errors import RefusedError
from pipeline.scoring.weights import FoundWeights

_UNREADABLE = (OSError, ValueError, LookupError, RuntimeError, AttributeError, TypeError, ImportError)
"""What damaged folders make transformers raise."""


def load_folder(weights: FoundWeights, model_class: Any, features_class: Any, what: str) -> tuple[Any, Any, Any]:
    """The model (float32, on the CPU, for inference), feature extractor and tokenizer of a folder.

    ``what`` is the model's name in messages.

    Raises:
        RefusedError: code ``eval_weights_wrong``; something lacks or cannot be read, or the tensors are not those of
            the class: what lacked, the loader would have filled with noise.
    """
    folder = weights.path.parent
    transformers_logging.disable_progress_bar()
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise wrong(folder, "it has no tokenizer.json or vocab.json: without a vocabulary every word is the same")
    try:
        model, report = model_class.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
        features = features_class.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except _UNREADABLE as error:
        raise wrong(folder, (str(error).strip() or type(error).__name__).splitlines()[0]) from error
    buffers = tuple(name.rpartition(".")[2] for name, _ in model.named_buffers())  # older files have position ids
    extra = [name for name in report["unexpected_keys"] if name.rpartition(".")[2] not in buffers]
    lost = sorted(map(str, [*report["missing_keys"], *extra, *report["mismatched_keys"]]))
    if lost:
        raise wrong(folder, f"its tensors are not {what}'s, by {lost[0]} ({len(lost)} differ)")
    return model.eval(), features, tokenizer


def wrong(folder: Path, why: str) -> RefusedError:
    """The error of a folder of weights, code ``eval_weights_wrong``."""
    return RefusedError(f"weights {folder}: {why}", code="eval_weights_wrong")
