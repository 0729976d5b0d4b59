from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from famseg.engine import Processes, RunConfig, SAMConfig, ScheduleConfig, TrainingConfig
from famseg.messages import InputError


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


def config(**keys: Any) -> RunConfig:
    return RunConfig.model_validate(
        {"pipeline": "skull", "training": {"epochs": 4}, "penalty": {"kind": "none"}} | keys
    )


def test_sam_without_a_kind_is_sam() -> None:
    assert config(sam={"rho": 0.1}).sam == SAMConfig(rho=0.1)
    assert config(sam={}).sam == SAMConfig(rho=0.05)
    assert config().sam is None


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, ""),
        ({"sam": {"rho": 0.5, "adaptive": True}}, "-asam0.5"),
        ({"sam": {}}, "-sam0.05"),
        ({"sam": {"kind": "gsam"}}, "-gsam0.05"),
        ({"sam": {"kind": "wsam"}}, "-wsam0.05"),
        ({"sam": {"kind": "looksam"}}, "-looksam0.1"),
        ({"nso": {}, "training": {"epochs": 4, "swa": {}}}, "-nso0.01-swa0.75"),
    ],
)
def test_a_run_folder_says_how_it_is_trained(keys: dict[str, Any], expected: str) -> None:
    assert config(**keys).method == expected


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"sam": {}, "nso": {}}, r"sam and nso both choose .* Leave one of them out\."),
        (
            {"sam": {"kind": "wsam"}, "training": {"epochs": 4, "clip_norm": 1.0}},
            r"clip_norm does not bound .* Set sam\.decoupled to false",
        ),
        (
            {"penalty": {"kind": "jacobian_norm"}, "training": {"epochs": 4, "compile": True}},
            r"training\.compile: compiled networks have no second derivatives",
        ),
        (
            {"training": {"epochs": 4, "ema": 0.9, "swa": {}}},
            r"ema and swa both average the weights",
        ),
        (
            {"training": {"epochs": 4, "early_stopping": {"patience": 1}, "swa": {}}},
            r"early_stopping may end a training before swa averages",
        ),
        (
            {"training": {"epochs": 3, "swa": {}}},
            r"swa would average the weights of one epoch only, number 3 of 3\.",
        ),
        ({"training": {"epochs": 4, "swa": {"every": 2}}}, r"number 3 of 4\."),
        (
            {"sam": {"kind": "gsam", "rho_min": 0.1}},
            r"rho_min 0\.1 is above rho 0\.05\. Swap them",
        ),
        ({"sam": {"kind": "wsam", "gamma": 1.0}}, "less than 1"),
    ],
)
def test_methods_that_do_not_fit_together_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**keys)


def test_methods_that_do_fit_together_are_taken() -> None:
    wsam = {"kind": "wsam", "decoupled": False}
    assert config(sam=wsam, training={"epochs": 4, "clip_norm": 1.0, "swa": {}}).method
    assert config(penalty={"kind": "jacobian_norm"}).penalty.weight == 0.01
