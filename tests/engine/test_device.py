from __future__ import annotations

import pytest
import torch

from famseg.engine._device import describe_device, say_device


def test_a_cpu_is_said_with_its_threads(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "famseg")
    say_device(torch.device("cpu"))
    (message,) = caplog.messages
    assert message.startswith("device: cpu (")
    assert message.endswith("threads)" if torch.get_num_threads() > 1 else "1 thread)")


def test_a_device_that_is_neither_cpu_nor_gpu_has_its_name() -> None:
    assert describe_device(torch.device("meta")) == "device: meta"
