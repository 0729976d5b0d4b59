from __future__ import annotations

import sys
from email.message import Message
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "requirements"))

import licences


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", True),
        ("Apache-2.0 AND MIT", True),
        ("Apache-2.0 WITH LLVM-exception AND BSL-1.0", True),
        ("MPL-2.0", True),
        ("LGPL-3.0-only", True),
        ("GPL-3.0-only", False),
        ("AGPL-3.0-or-later", False),
        ("MIT AND GPL-2.0-only", False),
        ("MIT OR GPL-2.0-only", True),
        ("(MIT OR GPL-2.0-only) AND BSD-3-Clause", False),  # rather asked than let pass
        ("not stated", False),
    ],
)
def test_a_gpl_is_not_allowed_and_a_choice_is(licence: str, allowed: bool) -> None:
    assert licences.allowed(licence) is allowed


def stated(**values: str) -> str:
    data = Message()
    for name, value in values.items():
        data[name.replace("_", "-")] = value
    return licences._stated(data)


def test_a_licence_is_an_expression_else_a_classifier_else_a_text() -> None:
    approved = "License :: OSI Approved :: MIT License"
    assert stated(License_Expression="BSD-3-Clause", Classifier=approved) == "BSD-3-Clause"
    assert stated(Classifier=approved, License="Copyright 2018\nmore") == "MIT"
    assert stated(License="Apache 2.0") == "Apache-2.0"
    assert stated(License="GPLv3") == "GPLv3"
    assert stated() == "not stated"


def test_every_installed_package_of_the_lock_is_allowed() -> None:
    rows = [row for row in licences.locked() if row.licence is not None]
    assert len(rows) > 100
    assert [row for row in rows if not licences.allowed(row.licence)] == []


def test_conditions_are_in_the_list() -> None:
    rows = [licences.Row("a", "1", "MIT"), licences.Row("b", "2", "MPL-2.0 AND MIT")]
    lines = licences.table(rows).splitlines()
    assert lines[-2:] == [
        "| a | 1 | MIT |  |",
        "| b | 2 | MPL-2.0 AND MIT | file by file: its files are passed on unchanged |",
    ]
