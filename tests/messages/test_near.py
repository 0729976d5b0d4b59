from __future__ import annotations

import pytest

from famseg.messages._near import listed, near

KNOWN = ["learning_rate", "weight_decay", "lambda", "layer", "Kind"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("lambd", "lambda"),
        ("LAYER", "layer"),
        ("kind", "Kind"),
        ("lr", "learning_rate"),
        ("wd", "weight_decay"),
        ("learn", "learning_rate"),
        ("la", None),  # the beginning of two names
        ("l", None),
        ("", None),
        ("epochs", None),
        ("x" * 100_000, None),
    ],
)
def test_near_names(name, meant):
    assert near(name, KNOWN) == meant


def test_a_higher_cutoff_is_pickier():
    assert near("laier", KNOWN) == "layer"
    assert near("laier", KNOWN, cutoff=0.9) is None


def test_lists_to_read():
    assert listed(iter(KNOWN[:2])) == "learning_rate, weight_decay"
    assert listed([]) == "none"
