from __future__ import annotations

from dataclasses import replace

import pytest

from famseg.reporting import Pairing
from famseg.reporting._words import conclusion, difference_words, label_of

FOUND = Pairing(
    metric="test/set1/skull/dsc",
    by="seed",
    seeds=tuple(range(8)),
    n=8,
    failed=0,
    difference=0.004,
    low=-0.006,
    high=0.014,
    p_value=0.4,
    p_holm=0.8,
    p_smallest=2 / 2**8,
    p_wilcoxon=0.4,
    cohens_dz=0.3,
    rank_biserial=0.3,
)


def test_a_difference_in_words():
    assert difference_words(FOUND) == (
        "+0.004 DSC of the skull, set1, 95 % interval -0.006 to +0.014, n = 8 seeds"
    )
    small = replace(FOUND, difference=-0.00012, low=-0.0005, high=-0.000001)
    assert difference_words(small).startswith("-0.00012 DSC of the skull, set1, 95 % interval")
    assert "-0.00050 to +0.00000" in difference_words(small)
    distance = replace(FOUND, metric="test/set1/skull/hd95_mm", difference=-1.5)
    assert difference_words(distance).startswith("-1.50 mm HD95 of the skull, set1")


@pytest.mark.parametrize(
    ("change", "smaller", "words"),
    [
        ({}, False, "no difference shown (p = 0.8 after Holm)"),
        ({"low": 0.001, "p_holm": 0.008}, False, "better than the baseline (p = 0.008 after Holm)"),
        ({"low": 0.001, "p_holm": 0.008}, True, "worse than the baseline (p = 0.008 after Holm)"),
        ({"low": 0.001, "p_holm": 0.06}, False, "no difference shown (p = 0.06 after Holm)"),
        ({"p_holm": 0.04}, False, "no difference shown (p = 0.04 after Holm)"),
        (
            {"n": 3, "p_smallest": 0.25},
            False,
            "no difference can be shown with 3 seeds (p is 0.25 or more)",
        ),
        ({"n": 1, "low": None, "high": None}, False, "a single pair, which can be chance"),
        ({"difference": 0.0, "low": 0.0, "high": 0.0}, False, "every pair is equal"),
    ],
)
def test_what_a_difference_shows(change, smaller, words):
    assert conclusion(replace(FOUND, **change), smaller_is_better=smaller).startswith(words)


def test_names_without_an_entry_keep_their_words():
    assert label_of("test/depth_mm").axis == "depth (mm)"
    assert label_of("test/top_five").axis == "top five"
    assert label_of("seconds").axis == "training time (s)"
