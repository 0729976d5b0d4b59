"""Text classification, such as whether the first sentence entails the second.

The language experiment of the FAM paper (arXiv 2307.02337, section 4.4): a pretrained encoder is
fine-tuned under cross-entropy plus lambda times the relative flatness of its classifier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from famseg import datasets, engine, models, objectives
from famseg.tracking import TrackingConfig

from ._classes import EVALUATED, KEY_METRIC, MONITORED, ClassesExperiment

if TYPE_CHECKING:
    import torch

__all__ = ["KEY_METRIC", "Config", "build"]


class Config(engine.RunConfig):
    """The configuration of a run on texts."""

    pipeline: Literal["language"]
    data: datasets.TextDataConfig = Field(description="labeled sentences or pairs of sentences")
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


def build(config: Config, device: torch.device) -> TextExperiment:
    """Return the experiment of a configuration.

    Args:
        config: The configuration.
        device: The device of the network.

    Raises:
        InputError: If data, network and penalty are incompatible.
    """
    return TextExperiment(config, device)


class TextExperiment(ClassesExperiment):
    """Sentences and a network for them, see `build`."""

    def __init__(self, config: Config, device: torch.device) -> None:
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
        train, validation, test = (
            datasets.TextSet(texts.split(name), tokenizer, max_length=config.tokens.max_length)
            for name in ("train", "validation", "test")
        )
        super().__init__(
            config,
            device,
            objectives.Objective(
                config.penalty.build(model, loss, seed=config.seed), inputs="tokens"
            ),
            texts,
            train=train,
            validation=validation,
            tests={"test": test, "train": train.subset(EVALUATED, seed=config.data.seed)},
            monitored=train.subset(MONITORED, seed=config.data.seed),
        )
        self.collate = datasets.PadBatch(
            tokenizer.padding, multiple=config.tokens.pad_to_multiple_of
        )
        self.lengths = train.lengths
        self.batch_size = config.training.batch_size
