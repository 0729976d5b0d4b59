from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from famseg.engine import Processes, RunConfig, Session, StopRequest, TrainingConfig, exact_float32


@pytest.fixture(autouse=True)
def as_torch_begins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def allowed() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def test_float32_is_float32() -> None:
    assert allowed() == (True, True)
    exact_float32()
    assert allowed() == (False, False)


def test_a_training_on_a_gpu_computes_in_float32(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(TrainingConfig, "choose_device", lambda *_: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", torch.backends.cudnn.deterministic)
    keys = {"pipeline": "skull", "output": str(tmp_path), "penalty": {"kind": "none"}}
    config = RunConfig.model_validate({**keys, "training": {"epochs": 1}})
    Session(lambda *_: None, config, processes=Processes(), stop=StopRequest())
    assert allowed() == (False, False)
