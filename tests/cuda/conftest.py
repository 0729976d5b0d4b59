"""The device that these tests run on."""

from __future__ import annotations

import os

import pytest


@pytest.fixture
def device() -> str:
    """``cuda``, or ``cpu`` if `FAMSEG_TEST_DEVICE` requests a rehearsal without a GPU."""
    return os.environ.get("FAMSEG_TEST_DEVICE", "cuda")
