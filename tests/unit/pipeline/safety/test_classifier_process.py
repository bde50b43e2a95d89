"""The child that holds the classifier: whatever a file does to it, the worker lives."""

from __future__ import annotations

import os
import signal
import struct
from pathlib import Path

import pytest

from pipeline.safety.classifier_process import ClassifierProcess
from pipeline.safety.filter import PromptSafetyFilter
from pipeline.safety.result import ClassifierError, SafetyDecision
from tests.unit.pipeline.safety.fasttext_file import write_crashing_classifier, write_safety_classifier


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    return write_safety_classifier(tmp_path / "safety.bin")


def test_a_file_that_kills_the_library_is_unavailable_with_the_signal(tmp_path: Path) -> None:
    path = write_crashing_classifier(tmp_path / "crash.bin")

    result = PromptSafetyFilter(path).screen("gore kitten")

    assert result.decision is SafetyDecision.UNAVAILABLE
    assert "signal SIGSEGV" in result.reason
    assert str(path) in result.reason


def test_a_child_that_died_is_replaced(classifier: Path) -> None:
    safety_filter = PromptSafetyFilter(classifier)
    assert safety_filter.screen("gore").decision is SafetyDecision.BLOCK
    assert safety_filter._loaded is not None
    first = safety_filter._loaded.process.pid

    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)

    assert safety_filter.screen("gore").decision is SafetyDecision.BLOCK
    assert safety_filter._loaded.process.pid != first


def test_one_child_serves_every_prompt_and_ends_with_its_input(classifier: Path) -> None:
    safety_filter = PromptSafetyFilter(classifier)
    pids = set()
    for prompt in ("gore", "kitten", "maybe"):
        safety_filter.screen(prompt)
        assert safety_filter._loaded is not None
        process = safety_filter._loaded.process
        pids.add(process.pid)

    safety_filter.close()

    assert len(pids) == 1
    assert process._process.returncode == 0, "it ended by itself when its input did"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_that_is_meant_for_the_worker_ends_no_child(classifier: Path, number: signal.Signals) -> None:
    process = ClassifierProcess(classifier)

    os.kill(process.pid, number)

    assert process.predict(["gore"]) == [("__label__unsafe", pytest.approx(0.982, abs=1e-3))]
    process.close()


def test_a_child_that_does_not_answer_is_killed(classifier: Path) -> None:
    process = ClassifierProcess(classifier, answer_s=0.2)
    os.kill(process.pid, signal.SIGSTOP)

    with pytest.raises(ClassifierError, match=r"gave no answer in 0\.2 s"):
        process.predict(["gore"])

    assert not process.usable
    process.close()


def test_any_bytes_of_a_file_may_be_wrong(classifier: Path, tmp_path: Path) -> None:
    """Every thirteenth byte of the file, flipped: no verdict but a decision, and never the end of this process."""
    whole = classifier.read_bytes()
    for at in range(0, len(whole), 13):
        path = tmp_path / "flipped.bin"
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        safety_filter = PromptSafetyFilter(path)

        assert safety_filter.screen("gore gore").decision in SafetyDecision, at

        safety_filter.close()


@pytest.mark.parametrize(
    ("at", "layout", "value", "message"),
    [
        (-34, "<q", 0, "0 labels' vectors, and there are 2"),
        (-26, "<q", 3, "bytes are fewer than it declares"),
        (8, "<i", 3, "2 columns of the words' vectors, and there are 3"),
        (68, "<i", 4, "damaged: it declares 4 words"),
    ],
)
def test_a_file_whose_parts_do_not_fit_is_not_given_to_the_library(
    classifier: Path, at: int, layout: str, value: int, message: str
) -> None:
    data = bytearray(classifier.read_bytes())
    offset = at if at >= 0 else len(data) + at
    struct.pack_into(layout, data, offset + (0 if at >= 0 else 2), value)
    classifier.write_bytes(data)

    result = PromptSafetyFilter(classifier).screen("gore")

    assert result.decision is SafetyDecision.UNAVAILABLE
    assert message in result.reason
