"""Digests, derived seeds, ids and keys."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import digests, ids, object_names
from pipeline import seeds as pipeline_seeds
from pipeline.spec import MAX_SEED


def test_canonical_json_ignores_the_order_of_keys() -> None:
    expected = '{"a":["é"],"b":1}'
    assert digests.canonical_json({"b": 1, "a": ["é"]}) == digests.canonical_json({"a": ["é"], "b": 1}) == expected


def test_canonical_json_refuses_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        digests.canonical_json([float("nan")])


def test_sha256_hex_takes_text_as_utf_8() -> None:
    assert digests.sha256_hex("abc") == digests.sha256_hex(b"abc")
    assert digests.sha256_hex(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@given(st.text(), st.integers(0, 10**6), st.integers(0, 10**6))
def test_derived_seeds_are_stable_and_in_range(fingerprint: str, line: int, variant: int) -> None:
    seed = pipeline_seeds.derive_seed(fingerprint, line, variant)
    assert seed == pipeline_seeds.derive_seed(fingerprint, line, variant)
    assert 0 <= seed <= MAX_SEED


def test_derived_seeds_are_pinned() -> None:
    """Changing this changes what every stored submission would make again."""
    assert pipeline_seeds.derive_seed("f", 1, 0) == 2300771160978396479


def test_derived_seeds_differ_by_line_variant_and_fingerprint() -> None:
    seeds = {pipeline_seeds.derive_seed(f, line, variant) for f in "ab" for line in range(30) for variant in range(30)}
    assert len(seeds) == 2 * 30 * 30


def test_batch_ids_sort_by_time() -> None:
    earlier = ids.new_batch_id()
    time.sleep(0.003)
    later = ids.new_batch_id()

    assert earlier < later
    assert len(earlier) == 13
    assert set(earlier + later) <= set(ids.CROCKFORD)


def test_the_alphabet_sorts_as_its_numbers_do() -> None:
    assert len(set(ids.CROCKFORD)) == 32
    assert sorted(ids.CROCKFORD) == list(ids.CROCKFORD)


def test_ids_and_keys() -> None:
    digest = "0" * 64
    assert ids.job_id("b", 7) == "b-000007"
    assert object_names.media_key("b-000007", digest) == f"media/b-000007/{digest}.mp4"
    assert object_names.media_key("b-000007", digest, "json") == f"media/b-000007/{digest}.json"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("A red fox!", "a-red-fox"),
        ("Café / façade", "cafe-facade"),
        ("../../etc/passwd", "etc-passwd"),
        ("🦊", "clip"),
        ("", "clip"),
        ("a" * 100, "a" * 40),
        ("one two three four five six seven eight nine", "one-two-three-four-five-six-seven-eight"),
    ],
)
def test_slug(prompt: str, expected: str) -> None:
    assert object_names.slug(prompt) == expected


@given(st.text())
def test_slugs_are_safe_file_names(prompt: str) -> None:
    slug = object_names.slug(prompt)
    assert 1 <= len(slug) <= 40
    assert set(slug) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert not slug.startswith("-")
    assert not slug.endswith("-")
