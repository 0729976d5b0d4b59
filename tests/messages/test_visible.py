"""Display of text from untrusted sources."""

from __future__ import annotations

import pytest

from famseg.messages._visible import cell, visible


@pytest.mark.parametrize(
    "sign", ["\x00", "\x07", "\x1b", "\x7f", "\x9b", "\u202e", "\u2066", "\udcff"]
)
def test_nothing_steers_a_terminal(sign: str) -> None:
    shown = visible(f"a{sign}b\n", keep="\n")
    assert shown.startswith("a\\")
    assert shown.endswith("b\n")
    assert shown[:-1].isprintable()


def test_other_scripts_stay() -> None:
    assert visible("Schädel 头骨 الجمجمة 💀") == "Schädel 头骨 الجمجمة 💀"


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\t=1", "\r=1"])
def test_a_cell_is_no_formula(text: str) -> None:
    assert cell(text) == f"'{text}"
    assert cell(f"a{text}") == f"a{text}"
