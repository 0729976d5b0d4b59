"""Skull reconstruction: a skull with a hole goes in, the complete skull comes out.

The experiment of the FAM paper (arXiv 2307.02337, section 4.3): a convolutional autoencoder under
Dice loss plus lambda times the relative flatness of its second bottleneck layer, evaluated on two
sets of defects.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from famseg import datasets, engine, evaluation, metrics, models, objectives, reconstruction
from famseg.config import flatten

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

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
        default_factory=datasets.DefectsConfig, description="the holes"
    )
    model: models.AutoencoderConfig = Field(
        default_factory=models.AutoencoderConfig, description="the network"
    )
    loss: objectives.ShapeLossConfig = Field(
        default_factory=objectives.DiceConfig, description="the loss"
    )


def build(config: Config, device: torch.device) -> engine.Experiment:
    """Return the experiment of a configuration.

    Args:
        config: The configuration.
        device: Where the network computes.

    Raises:
        InputError: If data, network and penalty do not fit together.
    """
    model = config.model.build(size=config.data.size)
    loss = config.loss.build()
    objective = objectives.Objective(config.penalty.build(model, loss, seed=config.seed))
    skulls = config.data.build(config.data.seed, progress=engine.log_progress("preparing skulls"))
    skulls.require_splits()
    defects = config.defects.build()
    train = datasets.TrainingSet(
        skulls.train, defects["train"], config.seed, mirror=config.data.mirror
    )
    validation = datasets.EvaluationSet(
        skulls.validation, defects["set1"], config.data.seed, "set1"
    )
    tests = {
        name: datasets.EvaluationSet(skulls.test, defects[name], config.data.seed, name)
        for name in ("set1", "set2")
    }
    mean_skull = datasets.mean_skull_mask(skulls.train)
    baselines = reconstruction.standard_baselines(
        [skull.mask for skull in skulls.train], mean_skull
    )

    def signs(history: engine.History, summary: Mapping[str, Any]) -> list[str]:
        ratios = {name: part.get("variance_ratio") for name, part in summary.items()}
        return evaluation.failure_signs(
            history,
            weight=config.penalty.weight,
            kind=config.penalty.kind,
            variance_ratios=ratios,
            metrics=evaluation.flat_metrics(summary),
            settings=flatten(config),
        )

    def evaluate(
        model: nn.Module,
        folder: Path,
        *,
        processes: engine.Processes,
        save: evaluation.Save = "none",
    ) -> Mapping[str, Any]:
        predict = Completion(model, device)
        logs = {name: engine.log_progress(f"evaluating {name}") for name in tests}
        result = evaluation.evaluate(
            predict,
            tests,
            mean_skull,
            folder,
            processes=processes,
            baselines=baselines,
            save=save,
            progress=lambda name, done, of: logs[name](done, of),
        )
        return result.summary

    return engine.Experiment(
        objective=objective,
        optimizer=config.optimizer.build(),
        schedule=config.schedule.build(config.training.epochs),
        train=train,
        validation=validation,
        score=lambda logits, batch: evaluation.with_loss(
            evaluation.dice_rows(logits > 0, batch), loss, logits, batch["label"]
        ),
        key_metric=KEY_METRIC,
        evaluate=evaluate,
        test_metrics=evaluation.flat_metrics,
        picture=lambda model: picture(Completion(model, device), validation),
        data_hash=skulls.fingerprint,
        write_manifest=lambda path: datasets.write_manifest(skulls.subjects, path),
        tests=tests,
        scores=SCORES,
        table=evaluation.table,
        signs=signs,
        saving=lambda save: partial(evaluate, save=save),
    )


class Completion:
    """A trained network as a function from defective to complete skulls.

    Args:
        model: The network; returns logits.
        device: Where it computes.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model = model
        self.device = device

    def __call__(self, images: Tensor) -> Tensor:
        """Return the masks of the completed skulls, of the same shape as ``images``."""
        from monai.networks.utils import eval_mode

        with eval_mode(self.model):
            logits: Tensor = self.model(images.to(self.device))
        return (logits > 0).cpu()


def picture(predict: Completion, cases: datasets.EvaluationSet, count: int = 3) -> engine.Picture:
    """Draw the first validation cases: input, output and truth through the defect."""
    import io

    import numpy as np
    from PIL import Image

    drawn = []
    for index in range(min(count, len(cases))):
        item = cases[index]
        output = predict(item["image"][None])[0]
        score = metrics.dice(output[0].numpy(), item["label"][0].numpy() > 0)
        x, y, z = (float(edge) for edge in item["spacing_mm"])
        image, label, region = (item[key][0].numpy() > 0 for key in ("image", "label", "region"))
        drawn.append(
            evaluation.SlicesCase(
                title=f"validation: {item['subject']}    DSC {score:.3f}",
                image=image,
                output=output[0].numpy(),
                truth=label,
                region=region,
                spacing_mm=(x, y, z),
            )
        )
    with Image.open(io.BytesIO(evaluation.slices_picture(drawn))) as png:
        return np.asarray(png.convert("RGB"))
