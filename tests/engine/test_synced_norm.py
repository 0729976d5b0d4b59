from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import warm
from test_fit import BACKENDS, HERE, run_toy
from test_methods import images
from torch import nn
from toy import largest_difference, make_experiment, make_fit

from famseg.engine import Processes, StopRequest, load_checkpoint
from famseg.engine._synced_norm import Share, SyncedBatchNorm, batch_norms, synchronize
from famseg.messages import InputError

ALONE = Processes()


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 4), (2, 3, 2, 2, 2)])
def test_one_process_gets_what_torch_computes(
    shape: tuple[int, ...], affine: bool, momentum: float | None
) -> None:
    torch.manual_seed(0)
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 5: nn.BatchNorm3d}[len(shape)]
    norm = kind(3, affine=affine, momentum=momentum, dtype=torch.float64)
    other = kind(3, affine=affine, momentum=momentum, dtype=torch.float64)
    synced = SyncedBatchNorm(other, processes=ALONE, share=Share())
    for _ in range(2):
        inputs = 100 + torch.randn(shape, dtype=torch.float64)
        one, two = (inputs.clone().requires_grad_() for _ in range(2))
        expected, result = norm(one), synced(two)
        torch.testing.assert_close(result, expected)
        expected.pow(3).sum().backward()
        result.pow(3).sum().backward()
        torch.testing.assert_close(two.grad, one.grad)
    assert largest_difference(norm.state_dict(), synced.state_dict()) < 1e-12
    torch.testing.assert_close(synced.eval()(inputs), norm.eval()(inputs))


def test_second_derivatives_are_right() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(2, track_running_stats=False, dtype=torch.float64)
    synced = SyncedBatchNorm(norm, processes=ALONE, share=Share())
    inputs = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: synced(x).sin(), (inputs,))


def test_half_precision_comes_out_as_it_came_in() -> None:
    synced = SyncedBatchNorm(nn.BatchNorm1d(3), processes=ALONE, share=Share())
    assert synced(torch.randn(4, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_layers_are_replaced_with_their_parameters_and_names() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2)))
    names, parameters = list(model.state_dict()), list(model.parameters())
    share = synchronize(model, ALONE)
    assert list(model.state_dict()) == names
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    (norm,) = batch_norms(model).values()
    assert isinstance(norm, SyncedBatchNorm)
    assert norm.share is share


WAYS: dict[str, list[str]] = {
    "plain": [],
    "penalty": ["weight=0.05", 'layer="5"', 'estimator="columns"', "batch_size=5", "samples=15"],
    "jacobian": ["jacobian=0.1", "epochs=1"],  # a collective for each of its many gradients
    "sam": ['sam={"rho": 0.1}'],
    "accumulated averages": ["accumulate=2", "ema=0.5"],
}


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("way", WAYS)
def test_two_processes_take_the_steps_of_one(tmp_path: Path, way: str, backend: str) -> None:
    options = ["normalized=true", *WAYS[way]]  # seven samples in batches of four: 2 + 2, 2 + 1
    run_toy(tmp_path / "one", *options)
    run_toy(tmp_path / "two", *options, ranks=2, backend=backend)
    states = [load_checkpoint(tmp_path / name / "checkpoints/last.pt") for name in ("one", "two")]
    assert largest_difference(states[0]["model"], states[1]["model"]) < 1e-9
    logs = [json.loads((tmp_path / name / "log.json").read_text()) for name in ("one", "two")]
    scores = [[epoch["val/dsc"] for epoch in log] for log in logs]
    assert scores[0] == pytest.approx(scores[1], rel=1e-9)


@pytest.mark.slow
def test_a_process_without_a_sample_leaves_the_statistics_alone(tmp_path: Path) -> None:
    options = ["normalized=true", "samples=6"]  # of the last two samples the third has none
    run_toy(tmp_path / "one", *options)
    run_toy(tmp_path / "three", *options, ranks=3)
    states = [load_checkpoint(tmp_path / name / "checkpoints/last.pt") for name in ("one", "three")]
    assert largest_difference(states[0]["model"], states[1]["model"]) < 1e-9


@pytest.mark.slow
def test_each_process_validates_with_the_buffers_of_the_first(tmp_path: Path) -> None:
    options = ["normalized=true", "samples=8", "sync_batchnorm=false", "epochs=1"]
    run_toy(tmp_path, *options, ranks=2)
    state = load_checkpoint(tmp_path / "checkpoints/last.pt")["model"]
    experiment = make_experiment(normalized=True, samples=8, dtype=torch.float64)
    experiment.objective.model.load_state_dict(state)
    metrics = make_fit(experiment, tmp_path).validate()
    log = json.loads((tmp_path / "log.json").read_text())[0]
    assert log["val/dsc"] == pytest.approx(metrics["val/dsc"], rel=1e-12)


@pytest.mark.slow
def test_a_penalty_before_a_synchronized_layer_is_refused_naming_both_keys(tmp_path: Path) -> None:
    options = ["normalized=true", "samples=8", "weight=0.05", "epochs=1"]
    options += ['layer="2"', 'probe_per="batch"']
    command = [str(HERE / "train_toy.py"), str(tmp_path)]
    for done in warm.run_ranks(2, *command, *options):
        assert done.returncode == 1
        assert (
            "InputError: penalty.layer: batch normalization runs after layer '2', and over several "
            "processes the penalty has no gradient through it. Set training.sync_batchnorm=false, "
            "or penalize a layer after it."
        ) in done.stderr
    run_toy(tmp_path, *options, "sync_batchnorm=false", ranks=2)


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        (7, {"batch_size": 3}, r"7 samples in batches of 3 leave .* '3' a single .*batch_size=4\."),
        (4, {"batch_size": 1}, r"4 samples in batches of 1 leave .* Set training\.batch_size=2\."),
        (1, {"batch_size": 2}, r"1 samples in batches of 2 .* Train on more samples\."),
        (
            8,
            {"batch_size": 2, "processes": Processes(world=2), "sync_batchnorm": False},
            r"in batches of 2 on 2 processes leave .*batch_size=4, or training\.sync_batchnorm",
        ),
    ],
)
def test_a_single_sample_is_refused_before_the_training(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    samples: int,
    options: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.setattr(
        "famseg.engine._assembly.DistributedDataParallel", lambda objective, **_: objective
    )
    monkeypatch.setattr("famseg.engine._assembly.group_for", lambda device: None)
    experiment = make_experiment(normalized=True, samples=samples)
    with pytest.raises(InputError, match=rf"training\.batch_size: .*{message}"):
        make_fit(experiment, tmp_path, **options)
    experiment = make_experiment(normalized=True, samples=8)
    make_fit(experiment, tmp_path, **(options | {"batch_size": 4}))


def test_a_penalty_needs_two_samples_in_each_process_or_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "famseg.engine._assembly.DistributedDataParallel", lambda objective, **_: objective
    )
    monkeypatch.setattr("famseg.engine._assembly.group_for", lambda device: None)
    options: dict[str, Any] = {"processes": Processes(world=2), "batch_size": 4}
    penalized = {"normalized": True, "weight": 0.1, "layer": "5"}
    make_fit(make_experiment(**penalized, samples=8), tmp_path, **options)
    make_fit(make_experiment(normalized=True, samples=7), tmp_path, **options)
    message = r"training\.batch_size: 7 samples in batches of 4 leave some of 2 processes a single "
    with pytest.raises(InputError, match=rf"{message}.*training\.batch_size=5, or training\.sync"):
        make_fit(make_experiment(**penalized, samples=7), tmp_path, **options)


def test_a_single_sample_with_several_places_is_trained_on(tmp_path: Path) -> None:
    make_fit(images(), tmp_path, batch_size=3, epochs=1).run(stop=StopRequest())
