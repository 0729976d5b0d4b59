"""The tests named on the security page exist."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent


def test_each_test_that_is_named_is_there() -> None:
    text = (TESTS.parent / "SECURITY.md").read_text()
    named = set(re.findall(r"`([\w/]*test_\w+\.py)`", text))
    assert len(named) > 12
    assert [name for name in named if not (TESTS / name).is_file()] == []
