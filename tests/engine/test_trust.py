"""Checkpoints of strangers: what is wrong with them is one line, before a step is taken."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD, AdamW
from toy import Adam, largest_difference, make_experiment, make_fit, weights

from famseg.engine import StopRequest, load_checkpoint, save_checkpoint
from famseg.messages import InputError

State = dict[str, Any]
OPTIMIZERS = {
    "adam": Adam,
    "adamw": partial(AdamW, lr=1e-2, amsgrad=True),
    "sgd": partial(SGD, lr=0.1, momentum=0.9, nesterov=True),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train for an epoch; return the run folder."""
    folder = tmp_path_factory.mktemp("trained")
    make_fit(make_experiment(), folder, epochs=1).run(stop=StopRequest())
    return folder


def nested(levels: int) -> list[Any]:
    inner: list[Any] = []
    for _ in range(levels):
        inner = [inner]
    return inner


def put(*keys: Any, value: Any) -> Callable[[State], None]:
    """Return what sets one value inside a state."""

    def change(state: State) -> None:
        place = state
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


def drop(*keys: Any) -> Callable[[State], None]:
    """Return what takes one value out of a state."""

    def change(state: State) -> None:
        place = state
        for key in keys[:-1]:
            place = place[key]
        del place[keys[-1]]

    return change


def change_moments(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[State], None]:
    """Return what changes the first moments of a weight."""

    def put_changed(state: State) -> None:
        kept = state["optimizer"]["state"][0]
        kept["exp_avg"] = change(kept["exp_avg"])

    return put_changed


GROUP = ("optimizer", "param_groups", 0)
MOMENTS = ("optimizer", "state", 0)
HOSTILE: dict[str, tuple[Callable[[State], None], str]] = {
    "negative step": (put("iteration", value=-1), "iteration is -1, not a number"),
    "huge step": (put("iteration", value=10**400), "iteration is a number of more than 15 digits"),
    "step too far": (put("iteration", value=10**9), "was trained for 1000000000 steps, more than"),
    "step as text": (put("iteration", value="4"), "iteration is '4', not a number"),
    "step as tensor": (put("iteration", value=torch.ones(2)), "iteration is a Tensor, not a"),
    "step not finite": (put("iteration", value=float("inf")), "iteration is inf, not a number"),
    "no step": (drop("iteration"), r"belongs to another network \('iteration'\)"),
    "epoch as bool": (put("epoch", value=True), "epoch is True, not a number"),
    "format as tensor": (put("format", value=torch.ones(2)), "not a checkpoint of format 1"),
    "weights as list": (put("model", value=nested(300)), "model is a list, not a mapping"),
    "weights of another kind": (put("model", "expand.weight", value=[1.0]), "another network"),
    "weights by number": (put("model", 3, value=torch.ones(2)), "another network"),
    "no weights": (drop("model"), r"belongs to another network \('model'\)"),
    "best as list": (put("best", value=[1, 2]), "best is a list, not a mapping"),
    "best of no epoch": (put("best", "epoch", value=None), "best is a dict, not an epoch and its"),
    "best that is NaN": (put("best", "value", value=float("nan")), "best is a dict, not an epoch"),
    "best with more": (put("best", "__class__", value=1), "best is a dict, not an epoch"),
    "sums as text": (put("meter", "loss", value="much"), "the sum of 'loss' is 'much'"),
    "sums not finite": (put("meter", "loss", value=float("inf")), "the sum of 'loss' is inf"),
    "history as text": (
        put("history", value="1"),
        "history is '1', not a mapping for each epoch",
    ),
    "history without an epoch": (
        put("history", value=[{"time": 1.0}]),
        "an epoch of the history is None",
    ),
    "history of an epoch below 0": (
        put("history", value=[{"epoch": -1}]),
        "an epoch of the history is -1",
    ),
    "history that is not finite": (
        put("history", value=[{"epoch": 1, "train/loss": float("inf")}]),
        "the history's 'train/loss' is inf",
    ),
    "history of huge numbers": (
        put("history", value=[{"epoch": 1, "train/loss": 10**400}]),
        "the history's 'train/loss' is a number of more than 15 digits",
    ),
    "pace of no process": (
        put("objective", value=[3]),
        "objective is a list, not a mapping for each process",
    ),
    "pace as text": (
        put("objective", value=[{"pace": "ab"}]),
        "the pace of the penalty is 'ab', not",
    ),
    "pace below 0": (
        put("objective", value=[{"pace": (-1, 0)}]),
        "the pace of the penalty is a tuple",
    ),
    "optimizer as text": (put("optimizer", value="adam"), "optimizer is 'adam', not a mapping"),
    "groups as text": (put("optimizer", "param_groups", value="ab"), "has other groups of weights"),
    "no groups": (put("optimizer", "param_groups", value=[]), "has other groups of weights"),
    "rate as text": (put(*GROUP, "lr", value="0.1"), "the optimizer's lr is '0.1'"),
    "rate not finite": (put(*GROUP, "lr", value=float("inf")), "the optimizer's lr is inf"),
    "no rate": (drop(*GROUP, "lr"), "the optimizer's lr is None"),
    "betas too many": (put(*GROUP, "betas", value=(0.9,) * 3), "the optimizer's betas is a tuple"),
    "weights of the group": (put(*GROUP, "params", value=[0]), "optimizer's params is a list"),
    "moments of another shape": (
        put("optimizer", "state", 0, "exp_avg", value=torch.ones(3)),
        r"the optimizer's exp_avg has the shape \(3,\)",
    ),
    "moments as text": (put("optimizer", "state", 0, "exp_avg", value="x"), "another network"),
    "moments of no weight": (put("optimizer", "state", 10**6, value={}), "another network"),
    "moments as list": (put("optimizer", "state", value=[1]), "another network"),
    "moments of a weight below 0": (put("optimizer", "state", -1, value={}), "no weight -1"),
    "moments by name": (put("optimizer", "state", "0", value={}), "no weight '0'"),
    "moments that are not there": (drop(*MOMENTS, "exp_avg"), "exp_avg of a weight is missing"),
    "no moments": (put(*MOMENTS, "exp_avg", value=None), "exp_avg is None, which it"),
    "moments that are sparse": (
        change_moments(lambda moments: moments.to_sparse()),
        "exp_avg is a Tensor, which it",
    ),
    "moments in one place": (
        change_moments(lambda moments: torch.zeros(1).expand(moments.shape)),
        "exp_avg is a Tensor, which it",
    ),
    "moments that are complex": (
        change_moments(lambda moments: moments.to(torch.complex64)),
        "exp_avg is a Tensor, which it",
    ),
    "steps below 0": (
        put(*MOMENTS, "step", value=torch.tensor(-1.0)),
        "step is a Tensor, which it",
    ),
    "steps not finite": (
        put(*MOMENTS, "step", value=torch.tensor(float("nan"))),
        "step is a Tensor, which it",
    ),
    "steps of each": (put(*MOMENTS, "step", value=torch.ones(3)), "step is a Tensor, which it"),
    "steps as number below 0": (put(*MOMENTS, "step", value=-1), "step is -1, which it"),
    "rate beyond float32": (put(*GROUP, "lr", value=1e308), r"the optimizer's lr is 1e\+308"),
    "betas of 1": (put(*GROUP, "betas", value=(1.0, 1.0)), "the optimizer's betas is a tuple"),
    "decay of another run": (put(*GROUP, "weight_decay", value=0.5), "optimizer's weight_decay"),
    "of a captured graph": (
        put(*GROUP, "capturable", value=True),
        "optimizer's capturable is True",
    ),
    "with more moments": (put(*GROUP, "amsgrad", value=True), "optimizer's amsgrad is True"),
    "schedule's first rate": (
        put("scheduler", "base_lrs", value=[0.5]),
        "schedule's rates are not those of the configuration",
    ),
    "sums of another kind": (put("meter", "more", value=1.0), "the sum of 'more' is 1.0"),
    "sums of a weight below 0": (put("meter", "weight", value=-7.0), "the sum of 'weight' is -7.0"),
    "schedule's step": (
        put("scheduler", "last_epoch", value=-(10**9)),
        "last_epoch is -10",
    ),
    "schedule's method": (put("scheduler", "step", value=1), "the schedule's 'step' is 1"),
    "schedule's rates": (put("scheduler", "base_lrs", value=[]), "'base_lrs' is a list"),
    "schedule by number": (put("scheduler", value={1: 2}), "the schedule's 1 is 2"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_checkpoint_is_one_line(name: str, trained: Path, tmp_path: Path) -> None:
    change, message = HOSTILE[name]
    state = torch.load(trained / "checkpoints" / "last.pt", weights_only=True)
    change(state)
    path = tmp_path / "checkpoints" / "last.pt"
    path.parent.mkdir()
    torch.save(state, path)
    with pytest.raises(InputError, match=message) as caught:
        make_fit(make_experiment(), tmp_path).restore()
    (line,) = caught.value.faults
    assert line.startswith(f"{path}: ")
    assert len(line) - len(str(path)) < 250
    assert line.isprintable()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_honest_one_is_taken(name: str, tmp_path: Path) -> None:
    whole = make_experiment(optimizer=OPTIMIZERS[name])
    make_fit(whole, tmp_path / "whole", epochs=2).run(stop=StopRequest())
    begun = make_experiment(optimizer=OPTIMIZERS[name])
    make_fit(begun, tmp_path / "parts", epochs=1).run(stop=StopRequest())
    resumed = make_experiment(optimizer=OPTIMIZERS[name])
    fit = make_fit(resumed, tmp_path / "parts", epochs=2)
    assert fit.restore() == 1
    fit.run(stop=StopRequest())
    assert largest_difference(weights(whole), weights(resumed)) == 0.0


def test_fewer_epochs_than_were_trained_are_refused(trained: Path) -> None:
    message = r"was trained for 4 steps, more than the 2 of training\.epochs=1\. Set at least"
    with pytest.raises(InputError, match=message):
        make_fit(make_experiment(), trained, epochs=1, batch_size=4).restore()


def test_what_a_checkpoint_does_not_hold_is_not_asked_for(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", {"epoch": 2})
    assert load_checkpoint(tmp_path / "a.pt")["epoch"] == 2
