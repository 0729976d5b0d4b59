from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from test_methods import images
from torch import Tensor, nn
from toy import Log, changed, largest_difference, make_experiment, make_fit, weights

from famseg.engine import Experiment, Processes, StopRequest, SWAConfig, load_checkpoint
from famseg.engine._epoch_average import EpochAverage, renew_statistics, whole_batches


def test_the_mean_follows_until_it_begins() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = EpochAverage(model, first=2, every=2)
    found = []
    for epoch, value in enumerate((1.0, 4.0, 100.0, 6.0, 100.0, 2.0), 1):
        nn.init.constant_(model.weight, value)
        changed = average.follow(epoch, model)
        found.append((changed, average.network.module.weight.item()))
    # The parts are those of epochs 2, 4 and 6.
    assert found == [(False, 1), (True, 4), (False, 4), (True, 5), (False, 5), (True, 4)]


@pytest.mark.parametrize(
    ("start", "epochs", "first"), [(0.75, 4, 3), (0.75, 40, 30), (0.7, 10, 7), (0.01, 3, 1)]
)
def test_the_first_part_is_at_the_end_of_the_share(start: float, epochs: int, first: int) -> None:
    assert SWAConfig(start=start).first(epochs) == first


def test_the_learning_rate_is_constant_from_then_on() -> None:
    schedule = SWAConfig(start=0.5, learning_rate=0.02).schedule(
        lambda epoch: 1 - epoch / 4, epochs=4, base=0.1
    )
    assert [schedule(moment) for moment in (0, 1, 2, 3)] == pytest.approx([1, 0.75, 0.2, 0.2])


class Statistics(nn.Module):
    """Batch normalization of the input, and of the same values times ten."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.BatchNorm1d(2).double(), nn.BatchNorm1d(2).double()

    def forward(self, x: Tensor) -> Tensor:
        self.second(10 * x)
        result: Tensor = self.first(x)
        return result


def some_batches() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {"x": torch.randn(4, 2, generator=generator, dtype=torch.float64) + number}
        for number in range(5)
    ]


def test_statistics_are_means_over_the_batches() -> None:
    model = Statistics().eval()
    model(torch.full((3, 2), 50.0, dtype=torch.float64))
    renew_statistics(model, some_batches(), inputs="x", processes=Processes())
    means = torch.stack([batch["x"].mean(0) for batch in some_batches()])
    variances = torch.stack([batch["x"].var(0) for batch in some_batches()])
    torch.testing.assert_close(model.first.running_mean, means.mean(0))
    torch.testing.assert_close(model.first.running_var, variances.mean(0))
    torch.testing.assert_close(model.second.running_mean, 10 * means.mean(0))
    assert model.first.num_batches_tracked == 5
    assert model.first.momentum == 0.1
    assert not model.training


class Recorded(Processes):
    """A process that adds what the others were asked for, in the order in which they were."""

    def __init__(self, others: Sequence[list[list[float]]] = ()) -> None:
        super().__init__(rank=0, world=2)
        object.__setattr__(self, "others", others)
        object.__setattr__(self, "own", [])

    def sum(self, values: Sequence[float]) -> list[float]:
        added = [other[len(self.own)] for other in self.others]  # type: ignore[attr-defined]
        self.own.append(list(values))  # type: ignore[attr-defined]
        return [sum(parts) for parts in zip(values, *added, strict=True)]


@pytest.mark.parametrize("of_first", [1, 5])  # the second process has none
def test_processes_share_out_the_batches(of_first: int) -> None:
    alone, one, other = Statistics(), Statistics(), Statistics()
    batches = some_batches()
    renew_statistics(alone, batches, inputs="x", processes=Processes())
    seen = Recorded()
    renew_statistics(other, batches[of_first:], inputs="x", processes=seen)
    renew_statistics(one, batches[:of_first], inputs="x", processes=Recorded([seen.own]))
    assert largest_difference(alone.state_dict(), one.state_dict()) < 1e-12
    assert one.first.num_batches_tracked == 5


def test_a_network_without_batch_normalization_costs_no_pass() -> None:
    def batches() -> Iterator[Mapping[str, Any]]:
        raise AssertionError("no batch is needed")
        yield {}

    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False))
    renew_statistics(model, batches(), inputs="x", processes=Processes())


def test_batches_come_whole_with_the_same_random_numbers_again(tmp_path: Path) -> None:
    experiment = images()
    step = make_fit(experiment, tmp_path).step

    def drawn(epoch: int) -> list[tuple[list[int], float]]:
        torch.manual_seed(torch.seed())
        batches = whole_batches(experiment, step, epoch, workers=0)
        return [(batch["index"].tolist(), torch.rand(1).item()) for batch in batches]

    assert drawn(1) == drawn(1)
    assert [indices for indices, _ in drawn(1)] == list(step.batches)[4:8]
    assert len({number for epoch in (1, 2) for _, number in drawn(epoch)}) == 8


class Keep(Log):
    """Keeps the trained weights and those that are validated at the end of each epoch."""

    def __init__(self, experiment: Experiment, fit: Any) -> None:
        super().__init__()
        self.experiment, self.fit = experiment, fit
        self.trained: list[dict[str, Tensor]] = []
        self.validated: list[dict[str, Tensor]] = []

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        super().epoch(epoch, metrics)
        self.trained.append(weights(self.experiment))
        state = self.fit.model.state_dict()
        self.validated.append({name: value.clone() for name, value in state.items()})


def test_a_training_validates_and_keeps_the_mean(tmp_path: Path) -> None:
    experiment = images()
    fit = make_fit(experiment, tmp_path, epochs=4, swa=SWAConfig(start=0.5))
    log = Keep(experiment, fit)
    fit.run(observers=[log], stop=StopRequest())
    assert largest_difference(log.trained[0], log.validated[0]) == 0
    for epoch in (1, 2, 3):
        parts = torch.stack([state["2.weight"] for state in log.trained[1 : epoch + 1]])
        torch.testing.assert_close(log.validated[epoch]["2.weight"], parts.mean(0))

    # The statistics are those of the mean, on the training batches of the last epoch.
    last = copy.deepcopy(fit.model)
    norm, seen, spread = last[0][1], [], []

    def see(_: nn.Module, inputs: tuple[Tensor], __: Tensor) -> None:
        seen.append(inputs[0].mean((0, 2, 3)))
        spread.append(inputs[0].var((0, 2, 3)))

    hook = norm.register_forward_hook(see)
    for batch in fit.batches.dealt(3):
        last.train()(experiment.train.__getitems__(batch)["image"])
    hook.remove()
    torch.testing.assert_close(fit.model[0][1].running_mean, torch.stack(seen).mean(0))
    torch.testing.assert_close(fit.model[0][1].running_var, torch.stack(spread).mean(0))

    state = load_checkpoint(tmp_path / "checkpoints/last.pt")
    assert largest_difference(state["model"], log.validated[-1]) == 0
    assert largest_difference(state["trained"], log.trained[-1]) == 0


@pytest.mark.parametrize(("validate_every", "best_epoch"), [(1, 2), (3, 3)])
def test_the_best_epoch_is_one_that_ends_with_a_mean(
    tmp_path: Path, validate_every: int, best_epoch: int
) -> None:
    calls = []

    def worse_every_time(outputs: Tensor, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
        calls.append(1)
        return [{"dsc": 1 / len(calls)} for _ in outputs]

    experiment = changed(make_experiment(), score=worse_every_time)
    fit = make_fit(
        experiment, tmp_path, epochs=4, swa=SWAConfig(start=0.5), validate_every=validate_every
    )
    log = Keep(experiment, fit)
    fit.run(observers=[log], stop=StopRequest())
    assert fit.state.best.epoch == best_epoch  # averaging begins with epoch 2
    best = load_checkpoint(tmp_path / "checkpoints/best.pt")["model"]
    assert largest_difference(best, log.validated[best_epoch - 1]) == 0
    parts = torch.stack([state["expand.weight"] for state in log.trained[1:best_epoch]])
    torch.testing.assert_close(best["expand.weight"], parts.mean(0))


def test_the_learning_rate_of_a_training_is_that_of_the_averaging(tmp_path: Path) -> None:
    fit = make_fit(
        make_experiment(schedule=lambda epoch: 1.0),
        tmp_path,
        epochs=4,
        swa=SWAConfig(start=0.5, learning_rate=0.004),
    )
    log = Log()
    fit.run(observers=[log], stop=StopRequest())
    rates = [epoch["train/learning_rate"] for epoch in log.epochs]
    assert rates == pytest.approx([0.01, 0.01, 0.004, 0.004])
