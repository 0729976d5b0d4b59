"""A toy task that trains in milliseconds: boxes with a hole, 8^3."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim import Adam as TorchAdam
from torch.utils.data import Dataset

from famseg.engine import Experiment, Fit, NSOConfig, Processes, RunConfig, StopRequest, SWAConfig
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


def as_classes(experiment: Experiment, terms: nn.Module) -> Experiment:
    """Return the toy task with the kinds of boxes as targets."""
    return replace(
        experiment,
        objective=Objective(terms, targets="kind"),
        score=lambda outputs, batch: [
            {"subject": subject, "dsc": float(output.softmax(0)[kind])}
            for subject, output, kind in zip(batch["subject"], outputs, batch["kind"], strict=True)
        ],
    )


def way_of_training(name: str, value: Any) -> Any:
    """Return a way of training, as `Fit` takes it, of what a configuration says."""
    if name == "sam":
        section = {"sam": value, "penalty": {"kind": "none"}, "training": {"epochs": 1}}
        return RunConfig.model_validate({"pipeline": "skull", **section}).sam
    sections = {"nso": NSOConfig, "swa": SWAConfig}
    return sections[name].model_validate(value) if name in sections else value


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
    model: nn.Module = (
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

    def evaluate(model: nn.Module, folder: Path, *, processes: Processes) -> Mapping[str, Any]:
        raise AssertionError("training alone is tested here")

    experiment = Experiment(
        objective=Objective(terms),
        optimizer=optimizer,
        schedule=schedule,
        train=Boxes(samples, dtype),
        validation=Boxes(3, dtype),
        score=lambda outputs, batch: [
            {"subject": subject, "dsc": 1 - float(soft_dice(o[None], t[None]))}
            for subject, o, t in zip(batch["subject"], outputs, batch["label"], strict=True)
        ],
        key_metric="dsc",
        evaluate=evaluate,
        test_metrics=lambda summary: {},
        picture=None,
        data_hash="boxes",
        write_manifest=lambda path: None,
    )
    return as_classes(experiment, terms) if class_weights else experiment


def make_fit(experiment: Experiment, folder: Path, **options: Any) -> Fit:
    """Return a training of the toy task in one process."""
    settings: dict[str, Any] = {
        "processes": Processes(),
        "device": CPU,
        "seed": 0,
        "epochs": 3,
        "batch_size": 2,
    }
    return Fit(experiment, folder=folder, **(settings | options))


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

    def picture(self, epoch: int, picture: Any) -> None:
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
