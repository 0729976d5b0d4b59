"""Implants: a skull with a defect goes in, the implant that fills it comes out.

The coarse network of a reconstruction learns from complete skulls, which are moved and bent and
into which defects of five classes are cut, many per head. The final evaluation calibrates the
threshold of the implant and the confidence on validation cases and then scores one test case of
each class per head. All that the network adds to the skull counts, wherever it is.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from famseg import datasets, engine, evaluation, metrics, models, objectives, reconstruction
from famseg.config import PathText, flatten
from famseg.messages import InputError
from famseg.tracking import TrackingConfig, write_atomically, write_json

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

# Twice the overlap of probability and implant over the sum of both: a network that is not sure
# enough yet to reach any threshold has one, too.
KEY_METRIC = "soft_dsc"
SCORES = (
    "test/set1/implant/dsc",
    "test/set1/implant/bdsc",
    "test/set1/implant/hd95_mm",
    "test/set1/implant/failed",
)
# Phantoms that are trained on beside a folder are none of those that are data themselves.
EXTRA_SEED = 1_000_003
WORTH_A_WARNING = 0.3  # mean implant DSC of the validation


class Config(engine.RunConfig):
    """The configuration of a run that learns to predict implants."""

    pipeline: Literal["implant"]
    data: datasets.DataConfig = Field(description="complete skulls")
    phantoms: int = Field(
        0, ge=0, description="procedural skulls that are trained on beside those of the data"
    )
    defects: datasets.SkullBreakConfig = Field(
        default_factory=datasets.SkullBreakConfig,
        description="the defects: of any class in training, one of each class per skull that is "
        "scored",
    )
    draws: int = Field(4, gt=0, description="defects per training skull and epoch")
    augment: datasets.ImplantAugmentConfig = Field(
        default_factory=datasets.ImplantAugmentConfig, description="what training skulls undergo"
    )
    model: models.ImplantModelConfig = Field(
        default_factory=models.UNetConfig, description="the network"
    )
    initial: PathText | None = Field(
        None,
        min_length=1,
        description="a trained model whose weights the training starts from, as `famseg "
        "reconstruct` takes it: builtin, a run folder, a checkpoint; it has the network of `model`",
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


def build(config: Config, device: torch.device) -> engine.Experiment:
    """Return the experiment of a configuration.

    Args:
        config: The configuration.
        device: Where the network computes.

    Raises:
        InputError: If data, network and penalty do not fit together.
    """
    model = config.model.build(size=config.data.size)
    if config.initial is not None:
        start_from(model, config.initial)
    loss = config.loss.build()
    objective = objectives.Objective(
        config.penalty.build(model, loss, seed=config.seed), targets="implant"
    )
    skulls = config.data.build(config.data.seed, progress=engine.log_progress("preparing skulls"))
    skulls.require_splits()
    defects = config.defects.build()
    augmentation = config.augment.build()
    train = datasets.ImplantTrainingSet(
        [*skulls.train, *extra_phantoms(config)],
        defects,
        config.seed,
        draws=config.draws,
        augmentation=replace(augmentation, mirror=augmentation.mirror or config.data.mirror),
    )
    validation, test = (
        datasets.ImplantCases(getattr(skulls, split), defects, config.data.seed, split)
        for split in ("validation", "test")
    )
    mean_skull = datasets.mean_skull_mask(skulls.train)
    baselines = reconstruction.standard_baselines(
        [skull.mask for skull in skulls.train], mean_skull
    )

    def evaluate(
        model: nn.Module,
        folder: Path,
        *,
        processes: engine.Processes,
        save: evaluation.Save = "none",
    ) -> Mapping[str, Any]:
        network, dsc = reconstruction.calibrate(
            coarse(config, model, device),
            validation,
            processes=processes,
            progress=engine.log_progress("calibrating"),
        )
        log = engine.log_progress("evaluating set1")
        result = evaluation.evaluate(
            Completion(network),
            {"set1": test},
            mean_skull,
            folder,
            processes=processes,
            baselines=baselines,
            save=save,
            progress=lambda _, done, of: log(done, of),
        )
        rows = reconstruction.confidence_rows(network, test, processes=processes)
        summary = {**result.summary, **by_class(result.rows, config.defects.classes)}
        summary["calibration"] = {
            "threshold": network.threshold,
            "validation_dsc": dsc,
            "n": len(validation),
        }
        if processes.main:
            write_confidence(rows, folder / "confidence.csv")
            reconstruction.write_calibration(folder, network.threshold, dsc, network.curve)
            write_json(folder / "summary.json", summary)
        return summary

    return engine.Experiment(
        objective=objective,
        optimizer=config.optimizer.build(),
        schedule=config.schedule.build(config.training.epochs),
        train=train,
        validation=validation,
        score=lambda logits, batch: evaluation.with_loss(
            score(logits, batch), loss, logits, batch["implant"]
        ),
        key_metric=KEY_METRIC,
        evaluate=evaluate,
        test_metrics=lambda summary: evaluation.flat_metrics(of_cases(summary)),
        picture=lambda model: picture(coarse(config, model, device), validation),
        data_hash=skulls.fingerprint,
        write_manifest=lambda path: datasets.write_manifest(skulls.subjects, path),
        tests={"set1": test},
        scores=SCORES,
        table=table,
        signs=lambda history, summary: signs(config, history, summary),
        saving=lambda save: partial(evaluate, save=save),
    )


def start_from(model: nn.Module, initial: str) -> None:
    """Give a network the weights of a trained one.

    Raises:
        InputError: If there is no such model, or its network is another one.
    """
    weights = reconstruction.load_network(initial).model.state_dict()
    own = model.state_dict()
    if {name: w.shape for name, w in weights.items()} != {name: w.shape for name, w in own.items()}:
        raise InputError(
            f"initial: {initial} has another network than model describes. Give model the kind, "
            "channels, units, fold and mirror of that one."
        )
    model.load_state_dict(weights)


def extra_phantoms(config: Config) -> Sequence[datasets.PreparedSkull]:
    """Return the procedural skulls that are trained on beside those of the data."""
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


def coarse(config: Config, model: nn.Module, device: torch.device) -> reconstruction.CoarseNetwork:
    """Return a network as a reconstruction uses it, before its calibration."""
    return reconstruction.CoarseNetwork(
        model=model,
        size=config.data.size,
        spacing_mm=config.data.spacing_mm,
        threshold=0.5,
        name=config.name,
        device=device,
    )


def score(logits: Tensor, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the overlap of probability and implant of each case, and the DSC at 0.5."""
    free = batch["image"] < 0.5
    probability = (logits.float().sigmoid() * free).flatten(1)
    truth = batch["implant"].flatten(1)
    soft = 2 * (probability * truth).sum(1) / (probability.sum(1) + truth.sum(1)).clamp_min(1e-6)
    implants = {"label": batch["implant"], "subject": batch["subject"]}
    hard = evaluation.dice_rows((logits > 0) & free, implants)
    return [{**row, "soft_dsc": value} for row, value in zip(hard, soft.tolist(), strict=True)]


class Completion:
    """A calibrated network as a function from defective to complete skulls.

    Args:
        network: The network.
    """

    def __init__(self, network: reconstruction.CoarseNetwork) -> None:
        self.network = network

    def __call__(self, images: Tensor) -> Tensor:
        """Return the masks of the completed skulls, of the same shape as ``images``."""
        import torch

        skulls = images[:, 0].cpu().numpy() > 0.5
        complete = [skull | self.network.implant(skull) for skull in skulls]
        return torch.stack([torch.from_numpy(mask) for mask in complete])[:, None]


def by_class(
    rows: Sequence[evaluation.CaseRow], classes: Sequence[str]
) -> dict[str, Mapping[str, Any]]:
    """Return the summary of each class of defects, whose name ends the name of a case."""
    of_class = [
        replace(row, set=where)
        for where in classes
        for row in rows
        if row.subject.endswith(f"/{where}")
    ]
    return dict(evaluation.summarise(of_class))


def of_cases(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a summary that aggregate cases."""
    return {name: part for name, part in summary.items() if name != "calibration"}


def table(summary: Mapping[str, Any]) -> str:
    """Return implant metrics by class, unmasked, and the table of all cases."""
    found = summary["calibration"]
    lines = [["implant, unmasked", "DSC", "border DSC", "HD95 mm", "n", "failed"]]
    for name, part in of_cases(summary).items():
        metrics = part["implant"]
        cells = [
            f"{metrics[key]['mean']:.{digits}f} ± {metrics[key]['std']:.{digits}f}"
            for key, digits in (("dsc", 3), ("bdsc", 3), ("hd95_mm", 2))
        ]
        counts = [str(metrics["dsc"][key]) for key in ("n", "failed")]
        lines.append(["all classes" if name == "set1" else name, *cells, *counts])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    note = (
        f"threshold {found['threshold']:g}, calibrated on {found['n']} validation cases "
        f"(implant DSC {found['validation_dsc']:.3f})"
    )
    return "\n".join([*text, note, "", evaluation.table({"set1": summary["set1"]})])


def signs(config: Config, history: engine.History, summary: Mapping[str, Any]) -> list[str]:
    """Return sentences about what went wrong."""
    found = summary["calibration"]
    warnings = evaluation.failure_signs(
        history,
        weight=config.penalty.weight,
        kind=config.penalty.kind,
        metrics=evaluation.flat_metrics({"set1": summary["set1"]}),
        settings=flatten(config),
        key_metric=KEY_METRIC,
    )
    if found["validation_dsc"] < WORTH_A_WARNING:
        warnings.append(
            f"under-trained: the best threshold, {found['threshold']:g}, gives an implant DSC of "
            f"{found['validation_dsc']:.3f} on validation; many defects may get no implant. Train "
            "longer."
        )
    return warnings


def write_confidence(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write confidence and unmasked implant DSC of each test case as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def picture(
    network: reconstruction.CoarseNetwork, cases: datasets.ImplantCases, count: int = 3
) -> engine.Picture:
    """Draw the first validation cases: input, output and truth through the defect."""
    import io

    import numpy as np
    from PIL import Image

    drawn = []
    for index in range(min(count, len(cases))):
        item = cases[index]
        image, label, implant = (item[key][0].numpy() > 0 for key in ("image", "label", "implant"))
        found = network.implant(image)
        x, y, z = (float(edge) for edge in item["spacing_mm"])
        drawn.append(
            evaluation.SlicesCase(
                title=f"validation: {item['subject']}    implant DSC "
                f"{metrics.dice(found, implant):.3f} at {network.threshold:g}",
                image=image,
                output=image | found,
                truth=label,
                region=item["region"][0].numpy(),
                spacing_mm=(x, y, z),
            )
        )
    with Image.open(io.BytesIO(evaluation.slices_picture(drawn))) as png:
        return np.asarray(png.convert("RGB"))
