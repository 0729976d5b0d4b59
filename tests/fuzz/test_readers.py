"""A short round of fuzzing; ``make fuzz`` runs the long one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seeds import seeds
from strategies import VALUES, near
from targets import TARGETS, check


@pytest.mark.parametrize("name", TARGETS)
def test_what_fuzzing_begins_with(name: str) -> None:
    for content in (*seeds(name), b"", b"\0" * 2000):
        check(name, content)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_refused_in_one_line(name: str) -> None:
    given(near(name))(lambda content: check(name, content))()


@given(VALUES)
def test_any_document_is_read_or_refused(value: object) -> None:
    # JSON is YAML; what only JSON has (NaN, lone surrogates) is refused as text.
    check("config", json.dumps(value).encode())


@given(st.text())
def test_any_override_is_read_or_refused(text: str) -> None:
    check("override", text.encode(errors="surrogatepass"))
