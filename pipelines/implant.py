"""Implants: the input is a skull with a defect, the output the implant that fills it.

The coarse network of a reconstruction is trained on complete skulls that are moved, deformed and
given defects of five classes, many per head. The final evaluation calibrates the threshold of the
implant and the confidence on validation cases, and then scores one test case of each class per
head. Everything that the network adds to the skull counts, regardless of its location.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from famseg import datasets, engine, evaluation, metrics, models, objectives, reconstruction
from famseg.config import PathText, flatten
from famseg.files import csv_text, write_atomically, write_json
from famseg.messages import InputError, text_table
from famseg.tracking import TrackingConfig

from ._skulls import DefectExperiment

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ._skulls import Mask

# Soft Dice: twice the overlap of probability and implant divided by the sum of both, which is above
# 0 even while all probabilities are below every threshold.
KEY_METRIC = "soft_dsc"
SCORES = (
    "test/set1/implant/dsc",
    "test/set1/implant/bdsc",
    "test/set1/implant/hd95_mm",
    "test/set1/implant/failed",
)
# Phantoms used in addition to a folder differ from phantoms used as the data.
EXTRA_SEED = 1_000_003
WORTH_A_WARNING = 0.3  # mean implant DSC of the validation


class Config(engine.RunConfig):
    """The configuration of a run that learns to predict implants."""

    pipeline: Literal["implant"]
    data: datasets.DataConfig = Field(description="complete skulls")
    phantoms: int = Field(
        0, ge=0, description="procedural skulls for training, in addition to those of the data"
    )
    defects: datasets.SkullBreakConfig = Field(
        default_factory=datasets.SkullBreakConfig,
        description="the defects: of any class in training, one of each class per skull in the "
        "evaluation",
    )
    draws: int = Field(4, gt=0, description="defects per training skull and epoch")
    augment: datasets.ImplantAugmentConfig = Field(
        default_factory=datasets.ImplantAugmentConfig,
        description="random changes to training skulls",
    )
    model: models.ImplantModelConfig = Field(
        default_factory=models.UNetConfig, description="the network"
    )
    initial: PathText | None = Field(
        None,
        min_length=1,
        description="a trained model whose weights the training starts from, as for `famseg "
        "reconstruct`: builtin, a run folder or a checkpoint; its network must be that of `model`",
    )
    loss: objectives.ShapeLossConfig = Field(
        default_factory=lambda: objectives.DiceCEConfig(
            kind="dice_ce", ce_weight=3.0, positive_weight=8.0
        ),
        description="the loss",
    )
    tracking: TrackingConfig = Field(
        default_factory=lambda: TrackingConfig(experiment="famseg-implant"), description="MLflow"
    )


def build(config: Config, device: torch.device) -> ImplantExperiment:
    """Return the experiment of a configuration.

    Args:
        config: The configuration.
        device: The device of the network.

    Raises:
        InputError: If data, network and penalty are incompatible.
    """
    return ImplantExperiment(config, device)


class ImplantExperiment(DefectExperiment):
    """Skulls with defects and a network that predicts the implants, see `build`."""

    key_metric = KEY_METRIC
    scores = SCORES
    config: Config
    validation: datasets.ImplantCases

    def __init__(self, config: Config, device: torch.device) -> None:
        model = config.model.build(size=config.data.size)
        if config.initial is not None:
            start_from(model, config.initial)
        self.loss = config.loss.build()
        terms = config.penalty.build(model, self.loss, seed=config.seed)
        data_seed = config.data.seed
        skulls = config.data.build(data_seed, progress=engine.log_progress("preparing skulls"))
        skulls.require_splits()
        defects = config.defects.build()
        augmentation = config.augment.build()
        mirror = augmentation.mirror or config.data.mirror
        super().__init__(
            config,
            device,
            objectives.Objective(terms, targets="implant"),
            skulls,
            train=datasets.ImplantTrainingSet(
                [*skulls.train, *extra_phantoms(config)],
                defects,
                config.seed,
                draws=config.draws,
                augmentation=replace(augmentation, mirror=mirror),
            ),
            validation=datasets.ImplantCases(skulls.validation, defects, data_seed, "validation"),
            tests={"set1": datasets.ImplantCases(skulls.test, defects, data_seed, "test")},
        )

    def score(self, outputs: Tensor, batch: engine.Batch) -> Sequence[engine.Row]:
        """Return the overlap of each implant, and the loss."""
        rows = score(outputs, batch)
        return evaluation.with_loss(rows, self.loss, outputs, batch["implant"])

    def coarse(self, model: nn.Module) -> reconstruction.CoarseNetwork:
        """Return a network in the form used by a reconstruction, before its calibration."""
        return reconstruction.CoarseNetwork(
            model=model,
            size=self.config.data.size,
            spacing_mm=self.config.data.spacing_mm,
            threshold=0.5,
            name=self.config.name,
            device=self.device,
            layer=objectives.penalized_layer(self.config.penalty, "head"),
        )

    def evaluate(
        self,
        model: nn.Module,
        folder: Path,
        *,
        processes: engine.Processes,
        save: engine.Saved | None = None,
    ) -> Mapping[str, Any]:
        """Calibrate on the validation cases, then evaluate the test cases by class of defect."""
        network, dsc = reconstruction.calibrate(
            self.coarse(model),
            self.validation,
            processes=processes,
            progress=engine.log_progress("calibrating"),
        )
        result = self.compare(ImplantCompletion(network), folder, processes=processes, save=save)
        rows = reconstruction.confidence_rows(network, self.tests["set1"], processes=processes)
        summary = {**result.summary, **by_class(result.rows, self.config.defects.classes)}
        summary["calibration"] = {
            "threshold": network.threshold,
            "validation_dsc": dsc,
            "n": len(self.validation),
        }
        if processes.main:
            write_confidence(rows, folder / "confidence.csv")
            reconstruction.write_calibration(folder, network.threshold, dsc, network.curve)
            write_json(folder / "summary.json", summary)
        return summary

    def test_metrics(self, summary: Mapping[str, Any]) -> Mapping[str, float]:
        """Return the metrics of all cases and of each class as flat names and numbers."""
        return evaluation.flat_metrics(of_cases(summary))

    def table(self, summary: Mapping[str, Any]) -> str:
        """Return implant metrics by class, unmasked, and the table of all cases."""
        return table(summary)

    def signs(self, history: engine.History, summary: Mapping[str, Any]) -> Sequence[str]:
        """Return sentences about signs of failure."""
        found = summary["calibration"]
        warnings = evaluation.failure_signs(
            history,
            weight=self.config.penalty.weight,
            kind=self.config.penalty.kind,
            metrics=evaluation.flat_metrics({"set1": summary["set1"]}),
            settings=flatten(self.config),
            key_metric=KEY_METRIC,
        )
        if found["validation_dsc"] < WORTH_A_WARNING:
            warnings.append(
                f"under-trained: the best threshold, {found['threshold']:g}, gives an implant DSC "
                f"of {found['validation_dsc']:.3f} on validation; many defects may get no implant. "
                "Train longer."
            )
        return warnings

    def completed(self, model: nn.Module, item: Mapping[str, Any]) -> tuple[Mask, str]:
        """Return the completed skull of a case, and its score as text."""
        image, implant = (item[key][0].numpy() > 0 for key in ("image", "implant"))
        network = self.coarse(model)
        found = network.implant(image)
        score = f"implant DSC {metrics.dice(found, implant):.3f} at {network.threshold:g}"
        return image | found, score


def start_from(model: nn.Module, initial: str) -> None:
    """Load the weights of a trained network.

    Raises:
        InputError: If there is no such model, or its network is a different one.
    """
    weights = reconstruction.load_network(initial).model.state_dict()
    own = model.state_dict()
    if {name: w.shape for name, w in weights.items()} != {name: w.shape for name, w in own.items()}:
        raise InputError(
            f"initial: {initial} has a different network than the section model describes. Set its "
            "kind, channels, units, fold and mirror in model."
        )
    model.load_state_dict(weights)


def extra_phantoms(config: Config) -> Sequence[datasets.PreparedSkull]:
    """Return the procedural skulls for training, in addition to those of the data."""
    if not config.phantoms:
        return ()
    seed = config.data.seed + EXTRA_SEED
    more = datasets.PhantomData(
        subjects=max(config.phantoms, 3),
        size=config.data.size,
        spacing_mm=config.data.spacing_mm,
        cache=config.data.cache,
        validation=0,
        test=0,
    )
    made = more.build(seed, progress=engine.log_progress("preparing phantoms"))
    return [replace(skull, id=f"extra_{skull.id}") for skull in made.train][: config.phantoms]


def score(logits: Tensor, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the overlap of probability and implant of each case, and the DSC at 0.5."""
    free = batch["image"] < 0.5
    probability = (logits.float().sigmoid() * free).flatten(1)
    truth = batch["implant"].flatten(1)
    soft = 2 * (probability * truth).sum(1) / (probability.sum(1) + truth.sum(1)).clamp_min(1e-6)
    implants = {"label": batch["implant"], "subject": batch["subject"]}
    hard = evaluation.dice_rows((logits > 0) & free, implants)
    return [{**row, "soft_dsc": value} for row, value in zip(hard, soft.tolist(), strict=True)]


class ImplantCompletion:
    """A calibrated network as a function from defective to complete skulls.

    Args:
        network: The network.
    """

    def __init__(self, network: reconstruction.CoarseNetwork) -> None:
        self.network = network

    def __call__(self, images: Tensor) -> Tensor:
        """Return the masks of the completed skulls, with the same shape as ``images``."""
        import torch

        skulls = images[:, 0].cpu().numpy() > 0.5
        complete = [skull | self.network.implant(skull) for skull in skulls]
        return torch.stack([torch.from_numpy(mask) for mask in complete])[:, None]


def by_class(
    rows: Sequence[evaluation.CaseRow], classes: Sequence[str]
) -> dict[str, Mapping[str, Any]]:
    """Return the summary of each class of defects, which is the last part of a case's name."""
    of_class = [
        replace(row, set=where)
        for where in classes
        for row in rows
        if row.subject.endswith(f"/{where}")
    ]
    return dict(evaluation.summarize(of_class))


def of_cases(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a summary that aggregate cases."""
    return {name: part for name, part in summary.items() if name != "calibration"}


def table(summary: Mapping[str, Any]) -> str:
    """Return implant metrics by class, unmasked, and the table of all cases."""
    found = summary["calibration"]
    lines = []
    for name, part in of_cases(summary).items():
        metrics = part["implant"]
        cells = [
            f"{metrics[key]['mean']:.{digits}f} ± {metrics[key]['std']:.{digits}f}"
            for key, digits in (("dsc", 3), ("bdsc", 3), ("hd95_mm", 2))
        ]
        counts = [str(metrics["dsc"][key]) for key in ("n", "failed")]
        lines.append(["all classes" if name == "set1" else name, *cells, *counts])
    text = text_table(["implant, unmasked", "DSC", "border DSC", "HD95 mm", "n", "failed"], lines)
    note = (
        f"threshold {found['threshold']:g}, calibrated on {found['n']} validation cases "
        f"(implant DSC {found['validation_dsc']:.3f})"
    )
    return "\n".join([text, note, "", evaluation.table({"set1": summary["set1"]})])


def write_confidence(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write confidence and unmasked implant DSC of each test case as CSV."""
    write_atomically(path, csv_text(list(rows[0]), rows).encode())
