"""Image classification: the input is an image, the output its class.

The experiments of the FAM paper (arXiv 2307.02337, section 4.2) on CIFAR-10, CIFAR-100, SVHN and
FashionMNIST: a classifier under cross-entropy plus lambda times the relative flatness of its last
linear layer, compared with the plain loss, SAM, ASAM, weight decay on that layer and label
smoothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from famseg import datasets, engine, evaluation, models, objectives
from famseg.messages import InputError
from famseg.tracking import TrackingConfig

from ._classes import EVALUATED, KEY_METRIC, MONITORED, ClassesExperiment

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["KEY_METRIC", "Config", "build"]

SHOWN = 32  # number of validation images drawn with the network's predictions

Split = Literal["train", "validation", "test"]


class Config(engine.RunConfig):
    """The configuration of an image classification run."""

    pipeline: Literal["classification"]
    data: datasets.ImageDataConfig = Field(description="labeled images")
    augment: datasets.AugmentConfig = Field(
        default_factory=datasets.AugmentConfig, description="random changes to training images"
    )
    model: models.ClassifierConfig = Field(description="the network")
    loss: objectives.ClassLossConfig = Field(
        default_factory=objectives.CrossEntropyConfig, description="the loss"
    )
    tracking: TrackingConfig = Field(
        default_factory=lambda: TrackingConfig(experiment="famseg-classification"),
        description="MLflow",
    )


def build(config: Config, device: torch.device) -> ImageExperiment:
    """Return the experiment of a configuration.

    Args:
        config: The configuration.
        device: The device of the network.

    Raises:
        InputError: If data, network and penalty are incompatible.
    """
    return ImageExperiment(config, device)


class ImageExperiment(ClassesExperiment):
    """Images and a network for them, see `build`."""

    def __init__(self, config: Config, device: torch.device) -> None:
        data = config.data.build(
            config.data.seed, progress=engine.log_progress("reading images, files")
        )
        if not len(data.validation):
            raise InputError(
                "data.validation: no image is left to choose the best epoch by. Set it above 0."
            )
        classes = len(data.classes)
        model = config.model.build(classes=classes, channels=data.channels, size=data.size)
        loss = config.loss.build(classes=classes)

        def as_they_are(split: Split, count: int | None = None) -> datasets.ImageSet:
            images = datasets.limited(data.split(split), count, config.data.seed)
            return datasets.ImageSet(
                images, prefix=split, mean=data.mean, std=data.std, training=False
            )

        super().__init__(
            config,
            device,
            objectives.Objective(config.penalty.build(model, loss, seed=config.seed)),
            data,
            train=datasets.ImageSet(data.train, prefix="train", training=True),
            validation=as_they_are("validation"),
            tests={"test": as_they_are("test"), "train": as_they_are("train", EVALUATED)},
            monitored=as_they_are("train", MONITORED),
        )
        self.shown = as_they_are("validation", SHOWN)
        self.collate = ready
        self.augmentation = config.augment.build(mean=data.mean, std=data.std, seed=config.seed)

    def augment(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return a training batch with random changes, as normalized floats."""
        return self.augmentation(batch)

    def image(self, model: nn.Module) -> engine.RGBImage:
        """Draw validation images with the predictions and, where these are wrong, the labels."""
        batch = self.shown.__getitems__(range(len(self.shown)))
        rows = self.score(evaluation.Logits(model, self.device)(batch["image"]), batch)
        classes = self.data.classes
        return evaluation.answers_image(
            [
                evaluation.Answer(
                    pixels,
                    truth=classes[row["label"]],
                    prediction="none" if row["failed"] else classes[row["prediction"]],
                    confidence=row["confidence"],
                )
                for pixels, row in zip(self.shown.images.pixels, rows, strict=True)
            ]
        )


def ready(batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a batch unchanged, for ``collate``, since the data set returns whole batches."""
    return batch
