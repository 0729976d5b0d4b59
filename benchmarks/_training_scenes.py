"""The contestants of the training benchmark: famseg's engine and other loops."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from famseg.config import load
from famseg.datasets import ImageSet
from famseg.engine import Processes, StopRequest, to_device

# Steps of a turn; the first one starts the loaders and is not counted.
STEPS = 4
Turn = Callable[[], float]


@dataclass(frozen=True)
class Contestant:
    """A contestant that takes turns.

    Attributes:
        name: Its name in the table.
        build: Creates its turn, which returns the mean seconds of a step.
        samples: Samples per step.
        missing: What to install if its package is missing.
    """

    name: str
    build: Callable[[], Turn]
    samples: int
    missing: str | None = None


class Clock:
    """Seconds between the ends of steps; an observer of the engine."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def started(self, **extent: int) -> None:
        """Training begins."""

    def stepped(self, step: int, **terms: float | None) -> None:
        """A step ended."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """An epoch ended."""

    def image(self, epoch: int, image: Any) -> None:
        """An image was drawn."""

    @property
    def seconds(self) -> float:
        """The mean of a step, the first left out."""
        return (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)


def engine(values: Mapping[str, Any], device: str) -> Turn:
    """Return a turn of famseg: a training of one short epoch, as ``famseg train`` runs it."""
    config, experiment = opened(values, device)

    def turn() -> float:
        clock = Clock()
        with tempfile.TemporaryDirectory() as folder:
            fit = config.training.build(
                experiment,
                folder=Path(folder),
                processes=Processes(),
                device=torch.device(device),
                seed=config.seed,
                sam=config.sam,
            )
            fit.run(observers=[clock], stop=StopRequest())
        return clock.seconds

    return turn


def opened(values: Mapping[str, Any], device: str) -> tuple[Any, Any]:
    """Return the configuration of values, and its experiment."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "benchmark.yaml"
        path.write_text(yaml.safe_dump(dict(values)))
        pipeline, config = load(str(path), [])
    torch.manual_seed(0)
    return config, pipeline.build(config, torch.device(device))


def images(batch: int, *, network: str, **more: Any) -> dict[str, Any]:
    """Return the values of a run on 32 x 32 images under SGD, crop and flip."""
    return {
        "pipeline": "classification",
        "data": {
            "kind": "synthetic",
            "like": "cifar10",
            "train": STEPS * batch + 20,
            "test": 20,
            "validation": 20 / (STEPS * batch + 20),
        },
        "augment": {"crop": 4, "flip": True},
        "model": {"kind": network, "features": 64},
        "penalty": {"kind": "none"},
        "optimizer": {
            "kind": "sgd",
            "learning_rate": 0.03,
            "momentum": 0.9,
            "weight_decay": 5e-4,
        },
        "training": {"epochs": 1, "batch_size": batch},
        **more,
    }


def image_loop(values: Mapping[str, Any], device: str) -> Turn:
    """Return a turn of the same training as an explicit loop, as in a tutorial."""
    config, experiment = opened(values, device)
    model = experiment.objective.model.to(device)
    augment, data = experiment.augment, experiment.train
    assert isinstance(data, ImageSet)  # noqa: S101 - whose batches come ready
    optimizer = experiment.optimizer(model.parameters())

    def turn() -> float:
        clock = Clock()
        order = torch.randperm(len(data)).split(config.training.batch_size)
        loader = torch.utils.data.DataLoader(
            data, batch_sampler=[part.tolist() for part in order], collate_fn=lambda batch: batch
        )
        model.train()
        for step, batch in enumerate(loader):
            moved = augment(to_device(batch, torch.device(device)))
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(moved["image"]), moved["label"])
            loss.backward()
            optimizer.step()
            loss.item()  # as for a progress display
            clock.stepped(step)
        return clock.seconds

    return turn


def sentences(batch: int, *, layers: int, hidden: int, **more: Any) -> dict[str, Any]:
    """Return the values of a run on pairs of sentences under AdamW, padded to 128 tokens."""
    return {
        "pipeline": "language",
        "data": {
            "kind": "synthetic",
            "train": STEPS * batch + 20,
            "test": 20,
            "validation": 20 / (STEPS * batch + 20),
        },
        "tokens": {"max_length": 128, "pad_to_multiple_of": 128},
        "model": {"kind": "tiny_bert", "layers": layers, "hidden": hidden},
        "penalty": {"kind": "none"},
        "optimizer": {"kind": "adamw", "learning_rate": 2e-5},
        "training": {"epochs": 1, "batch_size": batch},
        **more,
    }


def trainer(values: Mapping[str, Any], device: str) -> Turn:
    """Return a turn of transformers' Trainer with the same network and sentences."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    config, experiment = opened(values, device)
    network = experiment.objective.model

    class Labeled(nn.Module):
        """The network with its loss, as the Trainer expects it."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, labels: torch.Tensor, **tokens: torch.Tensor) -> dict[str, torch.Tensor]:
            logits = self.network(**tokens)
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    def collate(items: list[Any]) -> dict[str, torch.Tensor]:
        batch = experiment.collate(items)
        return {"labels": batch["label"], **batch["tokens"]}

    model = Labeled()

    def turn() -> float:
        clock = Clock()

        class Watch(TrainerCallback):
            def on_step_end(self, *event: Any, **more: Any) -> None:
                clock.stepped(0)

        with tempfile.TemporaryDirectory() as folder:
            Trainer(
                model,
                TrainingArguments(
                    folder,
                    per_device_train_batch_size=config.training.batch_size,
                    max_steps=STEPS,
                    learning_rate=2e-5,
                    max_grad_norm=0,
                    use_cpu=device == "cpu",
                    save_strategy="no",
                    report_to="none",
                    disable_tqdm=True,
                    logging_strategy="no",
                    dataloader_pin_memory=False,
                    remove_unused_columns=False,
                ),
                data_collator=collate,
                train_dataset=experiment.train,
                callbacks=[Watch()],
            ).train()
        return clock.seconds

    return turn
