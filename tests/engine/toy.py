"""A toy task that trains in milliseconds: boxes with a hole, 8^3."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim import Adam as TorchAdam
from torch.utils.data import Dataset

from famseg.engine import (
    Experiment,
    Fit,
    NSOConfig,
    Processes,
    RunConfig,
    StopRequest,
    SWAConfig,
    TrainingConfig,
)
from famseg.flatness import FAM
from famseg.models import ShapeAutoencoder
from famseg.objectives import JacobianNorm, Objective, PlainLoss

Adam = partial(TorchAdam, lr=1e-2)
Descent = partial(SGD, lr=0.1)
CPU = torch.device("cpu")


class Boxes(Dataset[Mapping[str, Any]]):
    """Boxes of random size; the hole depends on the epoch, which is part of the index."""

    def __init__(self, samples: int, dtype: torch.dtype = torch.float32) -> None:
        self.samples = samples
        self.dtype = dtype

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        epoch, sample = divmod(index, self.samples)
        label = torch.zeros(1, 8, 8, 8, dtype=self.dtype)
        label[:, : 3 + sample % 4, : 3 + sample % 3, 2:6] = 1
        image = label.clone()
        image[:, epoch % 3 : epoch % 3 + 2, :2] = 0
        kind = int(sample % 3 == 1)
        return {"image": image, "label": label, "kind": kind, "subject": f"box{sample}"}


def soft_dice(outputs: Tensor, targets: Tensor) -> Tensor:
    """One minus the soft Dice coefficient, mean over samples."""
    inside = outputs.sigmoid()
    overlap = (inside * targets).flatten(1).sum(1)
    return (1 - 2 * overlap / (inside + targets).flatten(1).sum(1)).mean()


def shallow(*, normalized: bool = False) -> nn.Module:
    """Return a network of coarse boxes, with batch normalization if wanted."""
    return nn.Sequential(
        nn.AvgPool3d(4),
        nn.Flatten(),
        nn.Linear(8, 4),
        nn.BatchNorm1d(4) if normalized else nn.Identity(),
        nn.Tanh(),
        nn.Linear(4, 8),
        nn.Unflatten(1, (1, 2, 2, 2)),
        nn.Upsample(scale_factor=4),
    )


def classifier() -> nn.Module:
    """Return a network of two classes of boxes."""
    layers = OrderedDict(
        pool=nn.AvgPool3d(4),
        flat=nn.Flatten(),
        expand=nn.Linear(8, 4),
        bend=nn.Tanh(),
        head=nn.Linear(4, 2),
    )
    return nn.Sequential(layers)


CONFIG = RunConfig.model_validate(
    {"pipeline": "toy", "penalty": {"kind": "none"}, "training": {"epochs": 1}}
)


class Toy(Experiment):
    """Boxes that are completed, or told apart; optimizer and schedule are those of a test."""

    key_metric = "dsc"

    def score(self, outputs: Tensor, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
        columns = zip(batch["subject"], outputs, batch[self.objective.targets], strict=True)
        if self.objective.targets == "kind":
            return [{"subject": s, "dsc": float(o.softmax(0)[kind])} for s, o, kind in columns]
        return [
            {"subject": s, "dsc": 1 - float(soft_dice(o[None], t[None]))} for s, o, t in columns
        ]


def changed(experiment: Experiment, **parts: Any) -> Experiment:
    """Return an experiment with other attributes or methods, these as functions."""
    other = copy.copy(experiment)
    for name, part in parts.items():
        setattr(other, name, part)
    return other


def way_of_training(name: str, value: Any) -> Any:
    """Return a way of training, as `Fit` takes it, of what a configuration says."""
    if name == "sam":
        section = {"sam": value, "penalty": {"kind": "none"}, "training": {"epochs": 1}}
        return RunConfig.model_validate({"pipeline": "skull", **section}).sam
    sections = {"nso": NSOConfig, "swa": SWAConfig}
    return sections[name].model_validate(value) if name in sections else value


# Many arguments: each is what some test varies.
def make_experiment(
    *,
    weight: float = 0.0,
    samples: int = 7,
    seed: int = 0,
    dropout: float = 0.0,
    dtype: torch.dtype = torch.float32,
    estimator: str = "hutchinson",
    probe_per: str = "sample",
    every: int | Literal["auto"] = 1,
    jacobian: float = 0.0,
    normalized: bool = False,
    layer: str = "expand",
    class_weights: Sequence[float] | None = None,
    ignore: int = -100,
    schedule: Callable[[float], float] = lambda epoch: 0.9**epoch,
    optimizer: Callable[[Any], torch.optim.Optimizer] = Adam,
) -> Experiment:
    """Return the toy task around a small skull autoencoder.

    With a penalty on the Jacobian, which is taken exactly, or with batch normalization the network
    is a shallow one; with class weights it tells two kinds of boxes apart.
    """
    torch.manual_seed(seed)
    loss: Callable[[Tensor, Tensor], Tensor] = soft_dice
    if class_weights:
        loss = nn.CrossEntropyLoss(
            torch.tensor(class_weights, dtype=dtype), ignore_index=ignore, label_smoothing=0.1
        )
    model = (
        classifier()
        if class_weights
        else shallow(normalized=normalized)
        if jacobian or normalized
        else ShapeAutoencoder(size=8, channels=(4, 4), strides=(2, 2), latent=3, dropout=dropout)
    ).to(dtype)
    terms: nn.Module = (
        FAM(
            model,
            layer=layer,
            loss=loss,
            weight=weight,
            estimator=estimator,
            probe_per=probe_per,
            every=every,
            samples="all",
            seed=seed,
        )
        if weight
        else JacobianNorm(model, loss=loss, weight=jacobian, projections="all")
        if jacobian
        else PlainLoss(model, loss=loss)
    )
    experiment = Toy(
        CONFIG,
        Objective(terms, targets="kind" if class_weights else "label"),
        train=Boxes(samples, dtype),
        validation=Boxes(3, dtype),
        data_hash="boxes",
    )
    return changed(experiment, optimizer=optimizer, schedule=schedule)


def make_fit(experiment: Experiment, folder: Path, **options: Any) -> Fit:
    """Return a training of the toy task in one process; most options are keys of `training`."""
    place: dict[str, Any] = {"processes": Processes(), "device": CPU, "seed": 0}
    ways = place | {"sam": None, "nso": None}
    fit = {name: options.pop(name, default) for name, default in ways.items()}
    training = TrainingConfig.model_validate({"epochs": 3, "batch_size": 2} | options)
    return Fit(experiment, training, folder=folder, **fit)


class StopAfter:
    """An observer that asks the run to end after some steps, as a signal would."""

    def __init__(self, stop: StopRequest, step: int, signum: int) -> None:
        self.stop = stop
        self.step = step
        self.signum = signum

    def started(self, **extent: int) -> None:
        pass

    def stepped(self, step: int, *, loss: float, penalty: float | None) -> None:
        if step == self.step:
            self.stop(self.signum, None)

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        pass

    def image(self, epoch: int, image: Any) -> None:
        pass


class Log(StopAfter):
    """An observer that keeps what it sees."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []
        self.steps: list[tuple[int, float, float | None]] = []

    def stepped(self, step: int, *, loss: float, penalty: float | None) -> None:
        self.steps.append((step, loss, penalty))

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self.epochs.append(dict(metrics))


def weights(experiment: Experiment) -> dict[str, Tensor]:
    """Return a copy of an experiment's weights."""
    return {k: v.clone() for k, v in experiment.objective.model.state_dict().items()}


def largest_difference(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Return the largest absolute difference of two sets of weights."""
    assert a.keys() == b.keys()
    return max(float((a[key] - b[key]).abs().max()) for key in a)
