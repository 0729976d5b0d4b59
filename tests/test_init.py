"""What importing famseg does to a process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import famseg
import mlflow, huggingface_hub.constants
from mlflow.telemetry import get_telemetry_client
print(get_telemetry_client(), huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY)
"""


@pytest.mark.slow
def test_nothing_is_reported_to_anybody() -> None:
    environment = {k: v for k, v in os.environ.items() if "TELEMETRY" not in k and k != "CI"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["None", "True"]
