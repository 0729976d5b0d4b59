"""Image classification: a picture goes in, the name of what it shows comes out.

The experiments of the FAM paper (arXiv 2307.02337, section 4.2) on CIFAR-10, CIFAR-100, SVHN and
FashionMNIST: a classifier under cross-entropy plus lambda times the relative flatness of its last
linear layer, beside the plain loss, SAM, ASAM, weight decay on that layer and label smoothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from famseg import datasets, engine, evaluation, models, objectives
from famseg.config import flatten
from famseg.messages import InputError
from famseg.tracking import TrackingConfig

if TYPE_CHECKING:
    import torch
    from torch import nn

KEY_METRIC = "accuracy"
SCORES = ("test/accuracy", "test/loss", "test/ece", "test/gap")
# At most so many pictures, without augmentation, class by class: training ones that the gap to the
# test and the flatness of the head come from, validation ones that are drawn with their answers.
EVALUATED, MONITORED, SHOWN = 5000, 512, 32

Split = Literal["train", "validation", "test"]


class Config(engine.RunConfig):
    """The configuration of an image classification run."""

    pipeline: Literal["classification"]
    data: datasets.ImageDataConfig = Field(description="labelled pictures")
    augment: datasets.AugmentConfig = Field(
        default_factory=datasets.AugmentConfig, description="random changes of training pictures"
    )
    model: models.ClassifierConfig = Field(description="the network")
    loss: objectives.ClassLossConfig = Field(
        default_factory=objectives.CrossEntropyConfig, description="the loss"
    )
    tracking: TrackingConfig = Field(
        default_factory=lambda: TrackingConfig(experiment="famseg-classification"),
        description="MLflow",
    )


def build(config: Config, device: torch.device) -> engine.Experiment:
    """Return the experiment of a configuration.

    Args:
        config: The configuration.
        device: Where the network computes.

    Raises:
        InputError: If data, network and penalty do not fit together.
    """
    data = config.data.build(
        config.data.seed, progress=engine.log_progress("reading pictures, files")
    )
    if not len(data.validation):
        raise InputError(
            "data.validation: no picture is left to choose the best epoch by. Set it above 0."
        )
    model = config.model.build(classes=len(data.classes), channels=data.channels, size=data.size)
    loss = config.loss.build(classes=len(data.classes))
    objective = objectives.Objective(config.penalty.build(model, loss, seed=config.seed))

    def as_they_are(split: Split, count: int | None = None) -> datasets.ImageSet:
        images = datasets.limited(data.split(split), count, config.data.seed)
        return datasets.ImageSet(images, prefix=split, mean=data.mean, std=data.std, training=False)

    sets = {"test": as_they_are("test"), "train": as_they_are("train", EVALUATED)}
    monitored, shown = as_they_are("train", MONITORED), as_they_are("validation", SHOWN)

    def evaluate(
        model: nn.Module, folder: Path, *, processes: engine.Processes
    ) -> Mapping[str, Any]:
        logs = {name: engine.log_progress(f"evaluating {name}") for name in sets}
        return evaluation.evaluate_classification(
            evaluation.Logits(model, device),
            sets,
            folder,
            classes=data.classes,
            collate=ready,
            processes=processes,
            progress=lambda name, done, of: logs[name](done, of),
        )

    return engine.Experiment(
        objective=objective,
        optimizer=config.optimizer.build(),
        schedule=config.schedule.build(config.training.epochs),
        train=datasets.ImageSet(data.train, prefix="train", training=True),
        validation=as_they_are("validation"),
        score=evaluation.classification_rows,
        key_metric=KEY_METRIC,
        evaluate=evaluate,
        test_metrics=evaluation.classification_metrics,
        picture=lambda model: picture(evaluation.Logits(model, device), shown, data.classes),
        data_hash=data.fingerprint,
        write_manifest=data.write_manifest,
        tests={"test": sets["test"]},
        collate=ready,
        augment=config.augment.build(mean=data.mean, std=data.std, seed=config.seed),
        compilable=model.body,
        monitor=evaluation.HeadMonitor(monitored, device, collate=ready),
        scores=SCORES,
        table=evaluation.classification_table,
        signs=lambda history, summary: evaluation.classification_signs(
            history,
            summary,
            weight=config.penalty.weight,
            kind=config.penalty.kind,
            settings=flatten(config),
            key_metric=KEY_METRIC,
        ),
    )


def ready(batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the batch, which the data set has made: what ``collate`` is here."""
    return batch


def picture(
    predict: evaluation.Logits, cases: datasets.ImageSet, classes: Sequence[str]
) -> engine.Picture:
    """Draw pictures with the network's answers and, where these are wrong, the truth."""
    batch = cases.__getitems__(range(len(cases)))
    answers = evaluation.classification_rows(predict(batch["image"]), batch)
    return evaluation.answers_picture(
        [
            evaluation.Answer(
                pixels,
                truth=classes[answer["label"]],
                prediction="none" if answer["failed"] else classes[answer["prediction"]],
                confidence=answer["confidence"],
            )
            for pixels, answer in zip(cases.images.pixels, answers, strict=True)
        ]
    )
