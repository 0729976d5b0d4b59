"""Ways of training beside the plain step: SAM, moving average, memory order, compilation."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_fit import run_toy
from torch import Tensor, nn
from toy import Descent, Log, StopAfter, largest_difference, make_experiment, make_fit, weights

from famseg.config import InputError
from famseg.engine import Experiment, Interrupted, NonFiniteError, StopRequest, load_checkpoint
from famseg.flatness import FAM
from famseg.objectives import Objective, PlainLoss

RHO = 0.1


class Pictures(torch.utils.data.Dataset[Mapping[str, Any]]):
    """Noise of two brightnesses; whole batches come from ``__getitems__``."""

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        sample = index % 7
        image = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(sample))
        return {"image": image + sample % 2, "label": sample % 2, "index": index}

    def __getitems__(self, indices: list[int]) -> Mapping[str, Any]:
        items = [self[index] for index in indices]
        return {
            "image": torch.stack([item["image"] for item in items]),
            **{key: torch.tensor([item[key] for item in items]) for key in ("label", "index")},
        }


def pictures(augment: Any = None, loss: Any = nn.functional.cross_entropy) -> Experiment:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    model = nn.Sequential(body, nn.Dropout(0.2), nn.Linear(16, 2))

    def score(outputs: Tensor, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
        right = (outputs.argmax(1) == batch["label"]).tolist()
        return [{"accuracy": float(each), "label": 1} for each in right]

    base = make_experiment()
    return Experiment(
        objective=Objective(PlainLoss(model, loss=loss)),
        optimizer=Descent,
        schedule=lambda epoch: 1.0,
        train=Pictures(),
        validation=Pictures(),
        score=score,
        key_metric="accuracy",
        evaluate=base.evaluate,
        test_metrics=base.test_metrics,
        picture=None,
        data_hash="pictures",
        write_manifest=base.write_manifest,
        collate=lambda batch: batch,
        augment=augment,
        compilable=body,
        monitor=lambda network: {"train/weight": float(network[2].weight.detach().square().sum())},
    )


def test_a_step_of_sam_is_that_of_the_formula_over_the_whole_window(tmp_path: Path) -> None:
    options = {"weight": 0.05, "estimator": "columns", "dtype": torch.float64, "samples": 4}
    options |= {"optimizer": Descent, "schedule": lambda epoch: 1.0}
    trained = make_experiment(**options)
    make_fit(trained, tmp_path, epochs=1, batch_size=2, accumulate=2, sam=(RHO, False)).run(
        stop=StopRequest()
    )

    byhand = make_experiment(**options)
    objective, parameters = byhand.objective, list(byhand.objective.parameters())
    batch = torch.utils.data.default_collate([byhand.train[index] for index in range(4)])
    objective.seek(0)
    gradient = torch.autograd.grad(objective(batch).total, parameters)
    norm = torch.cat([part.flatten() for part in gradient]).norm()
    start = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for p, part in zip(parameters, gradient, strict=True):
            p += RHO * part / norm
    objective.seek(0)
    gradient = torch.autograd.grad(objective(batch).total, parameters)
    with torch.no_grad():
        for p, old, part in zip(parameters, start, gradient, strict=True):
            p.copy_(old - 0.1 * part)
    # 1e-12 is added to the norm in pytorch_optimizer.
    assert largest_difference(weights(trained), weights(byhand)) < 1e-10


def test_sam_counts_a_batch_once_and_differs_from_the_plain_step(tmp_path: Path) -> None:
    plain, sam = pictures(), pictures()
    make_fit(plain, tmp_path / "plain", epochs=1, batch_size=7).run(stop=StopRequest())
    make_fit(sam, tmp_path / "sam", epochs=1, batch_size=7, sam=(RHO, True)).run(stop=StopRequest())
    one, other = weights(plain), weights(sam)
    for name in ("0.1.running_mean", "0.1.running_var", "0.1.num_batches_tracked"):
        assert torch.equal(one[name], other[name])
    assert not torch.equal(one["2.weight"], other["2.weight"])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_sam_works_in_mixed_precision(tmp_path: Path, precision: str) -> None:
    experiment = pictures()
    before = weights(experiment)
    make_fit(experiment, tmp_path, precision=precision, sam=(RHO, False)).run(stop=StopRequest())
    assert all(torch.isfinite(tensor).all() for tensor in weights(experiment).values())
    assert largest_difference(before, weights(experiment)) > 0


def test_sam_stops_before_it_perturbs_by_a_gradient_that_is_not_finite(tmp_path: Path) -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs * 0).square().sum().sqrt() + outputs.sum() * 0  # 0, with a gradient of NaN

    experiment = pictures(loss=loss)
    before = weights(experiment)
    fit = make_fit(experiment, tmp_path, sam=(RHO, False))
    with pytest.raises(NonFiniteError, match=r"step 1: the gradient \(norm nan\) is not finite"):
        fit.run(stop=StopRequest())
    assert torch.equal(before["2.weight"], weights(experiment)["2.weight"])


@pytest.mark.parametrize("step", [4, 6])  # the end of an epoch, and inside one
def test_a_resumed_run_with_sam_and_average_is_the_same_to_the_last_bit(
    tmp_path: Path, step: int
) -> None:
    options = {"sam": (RHO, True), "ema": 0.9, "channels_last": True}
    whole = pictures()
    make_fit(whole, tmp_path / "whole", **options).run(stop=StopRequest())
    stop = StopRequest()
    with pytest.raises(Interrupted):
        make_fit(pictures(), tmp_path / "parts", **options).run(
            observers=[StopAfter(stop, step, signal.SIGTERM)], stop=stop
        )
    rest = pictures()
    fit = make_fit(rest, tmp_path / "parts", **options)
    fit.restore()
    fit.run(stop=StopRequest())
    assert largest_difference(weights(whole), weights(rest)) == 0
    states = [
        load_checkpoint(tmp_path / name / "checkpoints/last.pt") for name in ("whole", "parts")
    ]
    assert largest_difference(states[0]["model"], states[1]["model"]) == 0
    assert largest_difference(states[0]["model"], states[0]["trained"]) > 0


def test_the_average_is_that_of_the_weights_after_each_step(tmp_path: Path) -> None:
    kept: list[dict[str, Tensor]] = []
    experiment = pictures()

    class Keep(Log):
        def stepped(self, step: int, *, loss: float, penalty: float | None) -> None:
            kept.append(weights(experiment))

    fit = make_fit(experiment, tmp_path, ema=0.75)
    fit.run(observers=[Keep()], stop=StopRequest())
    # An observer sees a step before its weights are averaged: the first average is a copy.
    average = kept[0]["2.weight"]
    for state in kept[1:]:
        average = 0.75 * average + 0.25 * state["2.weight"]
    torch.testing.assert_close(fit.model.state_dict()["2.weight"], average)
    best = load_checkpoint(tmp_path / "checkpoints/best.pt")
    assert best["model"].keys() == best["trained"].keys()


def test_channels_last_changes_the_memory_and_not_the_result(tmp_path: Path) -> None:
    seen = []

    def spy(batch: dict[str, Any]) -> dict[str, Any]:
        seen.append(batch["index"].tolist())
        return batch

    plain, ordered = pictures(), pictures(spy)
    make_fit(plain, tmp_path / "plain").run(stop=StopRequest())
    fit = make_fit(ordered, tmp_path / "last", channels_last=True)
    fit.run(stop=StopRequest())
    assert largest_difference(weights(plain), weights(ordered)) < 1e-5
    assert fit.model[0][0].weight.is_contiguous(memory_format=torch.channels_last)
    # Each epoch's samples once, under the index that an augmentation draws from.
    assert sorted(index for batch in seen for index in batch) == list(range(21))


def test_every_score_and_the_monitor_are_logged(tmp_path: Path) -> None:
    log = Log()
    experiment = pictures()
    make_fit(experiment, tmp_path).run(observers=[log], stop=StopRequest())
    last = log.epochs[-1]
    assert last["val/n"] == 7
    assert (
        last["val/accuracy"] == load_checkpoint(tmp_path / "checkpoints/last.pt")["best"]["value"]
    )
    assert "val/label" not in last
    head = experiment.objective.model[2].weight
    assert last["train/weight"] == pytest.approx(float(head.detach().square().sum()))


def test_what_cannot_be_compiled_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"training\.compile: this pipeline has nothing"):
        make_fit(make_experiment(), tmp_path, compiled=True)


def test_a_penalised_layer_is_not_compiled(tmp_path: Path) -> None:
    experiment = pictures()
    model, loss = experiment.objective.model, nn.functional.cross_entropy
    inside = FAM(model, layer="0.0", loss=loss, weight=0.1)
    experiment = replace(experiment, objective=Objective(inside))
    with pytest.raises(InputError, match=r"penalty\.layer 0\.0 lies in the part that is compiled"):
        make_fit(experiment, tmp_path, compiled=True)
    inside.weight = 0.0
    assert make_fit(experiment, tmp_path, compiled=True) is not None


@pytest.mark.slow
def test_a_compiled_body_trains_to_the_same_weights(tmp_path: Path) -> None:
    plain, fast = pictures(), pictures()
    make_fit(plain, tmp_path / "plain", epochs=1).run(stop=StopRequest())
    make_fit(fast, tmp_path / "fast", epochs=1, compiled=True).run(stop=StopRequest())
    assert largest_difference(weights(plain), weights(fast)) < 1e-5


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one_with_sam_and_average(tmp_path: Path) -> None:
    options = ["weight=0.05", 'estimator="columns"', "sam=[0.1, true]", "ema=0.9"]
    one = run_toy(tmp_path / "one", *options)
    two = run_toy(tmp_path / "two", *options, ranks=2)
    assert largest_difference(one["weights"], two["weights"]) < 1e-6
    average = [load_checkpoint(tmp_path / name / "checkpoints/last.pt") for name in ("one", "two")]
    assert largest_difference(average[0]["model"], average[1]["model"]) < 1e-6
