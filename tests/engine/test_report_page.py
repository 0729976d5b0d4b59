from __future__ import annotations

import logging
from pathlib import Path

import pytest

from famseg.engine import page_of
from famseg.runs import RunFolder


def test_the_page_is_what_was_written(tmp_path: Path) -> None:
    assert page_of(RunFolder(tmp_path), lambda folder: folder / "report.html") == (
        tmp_path / "report.html"
    )
    assert page_of(RunFolder(tmp_path), None) is None


def test_a_page_that_cannot_be_written_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def write(folder: Path) -> Path:
        raise OSError(28, "No space left on device\nof the disk")

    with caplog.at_level(logging.WARNING, logger="famseg"):
        assert page_of(RunFolder(tmp_path), write) is None
    (record,) = caplog.records
    assert "No space left on device" in record.getMessage()
    assert "The run itself is complete; try again with famseg report." in record.getMessage()
    assert "\n" not in record.getMessage()


def test_a_signal_is_no_failure_of_the_page(tmp_path: Path) -> None:
    def write(folder: Path) -> Path:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        page_of(RunFolder(tmp_path), write)
