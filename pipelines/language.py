"""Texts to classes: does the second sentence follow from the first, and tasks like it.

The language experiment of the FAM paper (arXiv 2307.02337, section 4.4): a pretrained encoder is
fine-tuned under cross-entropy plus lambda times the relative flatness of its classifier.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from famseg import datasets, engine, evaluation, models, objectives
from famseg.config import flatten
from famseg.tracking import TrackingConfig

if TYPE_CHECKING:
    import torch
    from torch import nn

KEY_METRIC = "accuracy"
SCORES = ("test/accuracy", "test/loss", "test/ece", "test/gap")
# At most so many training samples, class by class, that the gap to the test and the flatness of the
# head come from.
EVALUATED, MONITORED = 5000, 512


class Config(engine.RunConfig):
    """The configuration of a run on texts."""

    pipeline: Literal["language"]
    data: datasets.TextDataConfig = Field(description="labelled sentences or pairs of them")
    tokens: datasets.TokensConfig = Field(
        default_factory=datasets.TokensConfig, description="how sentences become batches"
    )
    model: models.TextModelConfig = Field(description="the network")
    loss: objectives.ClassLossConfig = Field(
        default_factory=objectives.CrossEntropyConfig, description="the loss"
    )
    tracking: TrackingConfig = Field(
        default_factory=lambda: TrackingConfig(experiment="famseg-language"), description="MLflow"
    )


def build(config: Config, device: torch.device) -> engine.Experiment:
    """Return the experiment of a configuration.

    Args:
        config: The configuration.
        device: Where the network computes.

    Raises:
        InputError: If data, network and penalty do not fit together.
    """
    texts = config.data.build(config.data.seed)
    tokenizer = config.model.tokenizer()
    model = config.model.build(texts.classes, seed=config.seed)
    models.check_tokens(
        model,
        tokenizer,
        max_length=config.tokens.max_length,
        multiple=config.tokens.pad_to_multiple_of,
    )
    loss = config.loss.build(classes=len(texts.classes))
    objective = objectives.Objective(
        config.penalty.build(model, loss, seed=config.seed), inputs="tokens"
    )
    train, validation, test = (
        datasets.TextSet(texts.split(name), tokenizer, max_length=config.tokens.max_length)
        for name in ("train", "validation", "test")
    )
    sets = {"test": test, "train": train.subset(EVALUATED, seed=config.data.seed)}
    collate = datasets.PadBatch(tokenizer.padding, multiple=config.tokens.pad_to_multiple_of)

    def evaluate(
        model: nn.Module, folder: Path, *, processes: engine.Processes
    ) -> Mapping[str, Any]:
        logs = {name: engine.log_progress(f"evaluating {name}") for name in sets}
        return evaluation.evaluate_classification(
            evaluation.Logits(model, device),
            sets,
            folder,
            classes=texts.classes,
            collate=collate,
            inputs="tokens",
            batch_size=config.training.batch_size,
            processes=processes,
            progress=lambda name, done, of: logs[name](done, of),
        )

    return engine.Experiment(
        objective=objective,
        optimizer=config.optimizer.build(),
        schedule=config.schedule.build(config.training.epochs),
        train=train,
        validation=validation,
        score=evaluation.classification_rows,
        key_metric=KEY_METRIC,
        evaluate=evaluate,
        test_metrics=evaluation.classification_metrics,
        picture=None,
        data_hash=texts.fingerprint,
        write_manifest=texts.write_manifest,
        tests={"test": test},
        collate=collate,
        lengths=train.lengths,
        compilable=model.body,
        monitor=evaluation.HeadMonitor(
            train.subset(MONITORED, seed=config.data.seed),
            device,
            inputs="tokens",
            collate=collate,
            batch_size=config.training.batch_size,
        ),
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
