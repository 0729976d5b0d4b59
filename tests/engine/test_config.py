from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from famseg.config import InputError
from famseg.engine import Processes, RunConfig, ScheduleConfig, TrainingConfig


def test_the_schedule_section_builds_the_function() -> None:
    factor = ScheduleConfig(kind="cosine", warmup=1).build(epochs=11)
    assert factor(6) == pytest.approx(0.5)


def test_steps_without_milestones_are_refused() -> None:
    with pytest.raises(ValidationError, match="needs milestones, for example"):
        ScheduleConfig(kind="step")
    with pytest.raises(ValidationError, match="fractions of the training"):
        ScheduleConfig(kind="step", milestones=(30,))


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cpu:0"])
def test_an_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(ValidationError, match="must be auto, cpu, cuda or cuda:N"):
        TrainingConfig(epochs=1, device=device)


def test_the_device_is_chosen_for_the_process() -> None:
    assert TrainingConfig(epochs=1, device="cpu").choose_device(Processes()) == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that is not there")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match=r"no CUDA device 0 \(0 found\)"):
        TrainingConfig(epochs=1, device="cuda").choose_device(Processes())


def test_lambda_below_zero_is_refused_under_its_own_name() -> None:
    penalty = {"kind": "relative_flatness", "layer": "expand", "lambda": -1.0}
    with pytest.raises(ValidationError, match=r"penalty\.relative_flatness\.lambda"):
        RunConfig.model_validate(
            {"pipeline": "skull", "training": {"epochs": 1}, "penalty": penalty}
        )
