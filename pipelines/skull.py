"""Skull reconstruction: the input is a skull with a defect, the output the complete skull.

The experiment of the FAM paper (arXiv 2307.02337, section 4.3): a convolutional autoencoder under
Dice loss plus lambda times the relative flatness of its second bottleneck layer, evaluated on two
sets of defects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from famseg import datasets, engine, evaluation, metrics, models, objectives
from famseg.config import flatten

from ._skulls import DefectExperiment

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ._skulls import Mask

KEY_METRIC = "dsc"
SCORES = (
    "test/set1/skull/dsc",
    "test/set1/implant/dsc",
    "test/set2/skull/dsc",
    "test/set2/implant/dsc",
    "test/set1/skull/hd95_mm",
    "test/set2/skull/hd95_mm",
)


class Config(engine.RunConfig):
    """The configuration of a skull reconstruction run."""

    pipeline: Literal["skull"]
    data: datasets.DataConfig = Field(description="complete skulls")
    defects: datasets.DefectsConfig = Field(
        default_factory=datasets.DefectsConfig, description="the defects"
    )
    model: models.AutoencoderConfig = Field(
        default_factory=models.AutoencoderConfig, description="the network"
    )
    loss: objectives.ShapeLossConfig = Field(
        default_factory=objectives.DiceConfig, description="the loss"
    )


def build(config: Config, device: torch.device) -> SkullExperiment:
    """Return the experiment of a configuration.

    Args:
        config: The configuration.
        device: The device of the network.

    Raises:
        InputError: If data, network and penalty are incompatible.
    """
    return SkullExperiment(config, device)


class SkullExperiment(DefectExperiment):
    """Skulls with defects and a network that completes them, see `build`."""

    key_metric = KEY_METRIC
    scores = SCORES

    def __init__(self, config: Config, device: torch.device) -> None:
        model = config.model.build(size=config.data.size)
        self.loss = config.loss.build()
        terms = config.penalty.build(model, self.loss, seed=config.seed)
        data_seed = config.data.seed
        skulls = config.data.build(data_seed, progress=engine.log_progress("preparing skulls"))
        skulls.require_splits()
        defects = config.defects.build()
        super().__init__(
            config,
            device,
            objectives.Objective(terms),
            skulls,
            train=datasets.TrainingSet(
                skulls.train, defects["train"], config.seed, mirror=config.data.mirror
            ),
            validation=datasets.EvaluationSet(
                skulls.validation, defects["set1"], data_seed, "set1"
            ),
            tests={
                name: datasets.EvaluationSet(skulls.test, defects[name], data_seed, name)
                for name in ("set1", "set2")
            },
        )

    def score(self, outputs: Tensor, batch: engine.Batch) -> Sequence[engine.Row]:
        """Return Dice coefficient and loss of each completed skull."""
        rows = evaluation.dice_rows(outputs > 0, batch)
        return evaluation.with_loss(rows, self.loss, outputs, batch["label"])

    def evaluate(
        self,
        model: nn.Module,
        folder: Path,
        *,
        processes: engine.Processes,
        save: engine.Saved | None = None,
    ) -> Mapping[str, Any]:
        """Evaluate the network and the baselines on both sets of defects."""
        predict = SkullCompletion(model, self.device)
        return self.compare(predict, folder, processes=processes, save=save).summary

    def test_metrics(self, summary: Mapping[str, Any]) -> Mapping[str, float]:
        """Return the metrics of skulls and implants as flat names and numbers."""
        return evaluation.flat_metrics(summary)

    def table(self, summary: Mapping[str, Any]) -> str:
        """Return the summary as a table, with the baselines."""
        return evaluation.table(summary)

    def signs(self, history: engine.History, summary: Mapping[str, Any]) -> Sequence[str]:
        """Return sentences about signs of failure."""
        return evaluation.failure_signs(
            history,
            weight=self.config.penalty.weight,
            kind=self.config.penalty.kind,
            variance_ratios={name: part.get("variance_ratio") for name, part in summary.items()},
            metrics=evaluation.flat_metrics(summary),
            settings=flatten(self.config),
        )

    def completed(self, model: nn.Module, item: Mapping[str, Any]) -> tuple[Mask, str]:
        """Return the completed skull of a case, and its score in words."""
        output: Mask = SkullCompletion(model, self.device)(item["image"][None])[0, 0].numpy()
        return output, f"DSC {metrics.dice(output, item['label'][0].numpy() > 0):.3f}"


class SkullCompletion:
    """A trained network as a function from defective to complete skulls.

    Args:
        model: The network; returns logits.
        device: The device of the computation.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model = model
        self.device = device

    def __call__(self, images: Tensor) -> Tensor:
        """Return the masks of the completed skulls, with the same shape as ``images``."""
        from monai.networks.utils import eval_mode

        with eval_mode(self.model):
            logits: Tensor = self.model(images.to(self.device))
        return (logits > 0).cpu()
