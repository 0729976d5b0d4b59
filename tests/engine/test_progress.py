from __future__ import annotations

import logging

import pytest

from famseg.engine import log_progress


def test_long_work_says_how_far_it_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="famseg")
    report = log_progress("preparing", every_s=0)
    for done in (1, 2):
        report(done, 2)
    assert [record.getMessage() for record in caplog.records] == [
        "preparing: 1 of 2",
        "preparing: 2 of 2",
    ]


def test_short_work_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="famseg")
    report = log_progress("preparing", every_s=3600)
    for done in (1, 2):
        report(done, 2)
    assert not caplog.records
