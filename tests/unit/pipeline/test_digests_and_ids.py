"""Digests, derived seeds, ids and keys."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import digests, ids
from pipeline import seeds as pipeline_seeds
from pipeline.files import object_names
from pipeline.files.names import broken_rule


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
def test_derived_seeds_are_stable_and_safe_in_json(prompt: str, variant: int, occurrence: int) -> None:
    seed = pipeline_seeds.derive_seed(prompt, variant, occurrence)
    assert seed == pipeline_seeds.derive_seed(prompt, variant, occurrence)
    assert 0 <= seed < 2**53
    assert all(
        0 <= other < 2**53 for other in (pipeline_seeds.segment_seed(seed, 1), pipeline_seeds.roll_seed(seed, 2))
    )


def test_derived_seeds_are_pinned() -> None:
    """Changing this changes what every stored submission would make again."""
    assert pipeline_seeds.derive_seed("f", 1, 0) == 259188505748391


def test_derived_seeds_differ_by_prompt_variant_and_occurrence() -> None:
    seeds = {pipeline_seeds.derive_seed(text, a, b) for text in ("a", "b") for a in range(30) for b in range(30)}
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
        ("Café / façade", "café-façade"),
        ("雪の中の狐、夜明け", "雪の中の狐-夜明け"),
        ("हिन्दी में लोमड़ी", "हिन्दी-में-लोमड़ी"),
        ("Straße\u202egpj.exe", "straße-gpj-exe"),
        ("../../etc/passwd", "etc-passwd"),
        ("🦊", "clip"),
        ("CON", "clip-con"),
        ("com0!", "clip-com0"),
        ("COM¹", "clip-com1"),
        ("aux cable", "aux-cable"),
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
    assert broken_rule(slug) is None
    assert not slug.startswith("-")
    assert not slug.endswith("-")
