"""Make the built-in model of `famseg reconstruct`: train it on phantoms alone, score it, pack it.

    python benchmarks/builtin_model.py                        # about an hour of one core
    python benchmarks/builtin_model.py --epochs 80            # longer
    python benchmarks/builtin_model.py --real FOLDER          # and score it on real heads
    python benchmarks/builtin_model.py --run runs/builtin-lambda0-seed0   # pack a finished run

The run is that of configs/implant.yaml; it is tracked like any other and resumed where it stopped.
Nothing but procedural skulls trains the model, chooses its epoch or calibrates it. Real heads, if
there are any, are masks of complete skulls in the frame of 224 mm; they are scored, nothing else.
The folder famseg/reconstruction/builtin gets the weights, card.json and MODEL_CARD.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from famseg import engine
from famseg.config import load
from famseg.datasets import (
    ImplantCases,
    PreparedSkull,
    SkullBreakDefect,
    prepare_transform,
    scan_folder,
)
from famseg.datasets.skulls import prepare_file
from famseg.evaluation import read_cases
from famseg.files import write_atomically
from famseg.metrics import score
from famseg.reconstruction import CoarseNetwork, load_network, save_network

ROOT = Path(__file__).resolve().parents[1]
BUILTIN = ROOT / "famseg" / "reconstruction" / "builtin"
METRICS = (("dsc", "DSC", 3), ("bdsc", "border DSC", 3), ("hd95_pooled_mm", "HD95 mm (pooled)", 2))
Row = dict[str, Any]


def main() -> None:
    """Train, score and package."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=40, help="epochs of 736 samples")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training")
    parser.add_argument("--output", default="runs", help="where the run folder goes")
    parser.add_argument("--run", type=Path, help="a finished run: nothing is trained")
    parser.add_argument("--real", type=Path, help="folder of complete real skulls, to be scored")
    parser.add_argument("--except", nargs="*", default=[], dest="left_out", help="their ids")
    parser.add_argument("--into", type=Path, default=BUILTIN, help="where the model is written")
    arguments = parser.parse_args()
    run = arguments.run or train(arguments.epochs, arguments.seed, arguments.output)
    network = load_network(run)
    tables = {"phantoms": scored_cases(run)}
    if arguments.real:
        tables["real heads"] = score_cases(network, real_cases(arguments.real, arguments.left_out))
    pack(network, run, tables, arguments.into)


def train(epochs: int, seed: int, output: str) -> Path:
    """Train and evaluate configs/implant.yaml, or resume the run; return its folder."""
    overrides = [f"training.epochs={epochs}", f"seed={seed}", f"output={output}", "name=builtin"]
    pipeline, config = load("implant", [*overrides, "training.threads=1"])
    with engine.processes() as processes, engine.stop_on_signals() as stop:
        session = engine.Session(pipeline.build, config, processes=processes, stop=stop)
        return session.run(resume=True, observers=[Printer()]).folder.path


class Printer:
    """Prints a line per epoch."""

    def started(self, *, epochs: int, steps: int, step: int) -> None:
        """Print the amount of work."""
        print(f"step {step} of {steps}, {epochs} epochs", flush=True)

    def stepped(self, step: int, *, loss: float, penalty: float | None) -> None:
        """Print nothing."""

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Print loss and validation."""
        shown = {k: round(v, 4) for k, v in metrics.items() if k in ("train/loss", "val/dsc")}
        print(f"epoch {epoch}: {shown}", flush=True)

    def image(self, epoch: int, image: engine.RGBImage) -> None:
        """Draw nothing."""


def scored_cases(run: Path) -> list[Row]:
    """Return unmasked metrics and the confidence of the test cases, as in the run's evaluation."""
    with (run / "evaluation" / "confidence.csv").open() as stream:
        confidence = {row["subject"]: float(row["confidence"]) for row in csv.DictReader(stream)}
    rows: list[Row] = []
    for case in read_cases(run / "evaluation" / "cases.csv"):
        if (case.source, case.region) == ("model", "implant"):
            about = {"subject": case.subject, "where": case.subject.rpartition("/")[2]}
            metrics = {key: float(getattr(case, key)) for key, _, _ in METRICS}
            confident = {"confidence": confidence[case.subject]}
            rows.append(about | {"failed": case.failed} | metrics | confident)
    return rows


def real_cases(root: Path, left_out: Sequence[str]) -> ImplantCases:
    """Return complete real skulls at 64^3, one defect of each class in each."""
    transform = prepare_transform(64, 3.5, fit="pad", center="keep", threshold=0.4)
    skulls = [
        PreparedSkull(subject.id, *prepare_file(subject.file, transform))
        for subject in scan_folder(root, "*")
        if subject.id not in left_out and subject.file is not None
    ]
    return ImplantCases(skulls, SkullBreakDefect(), 0, "real")


def score_cases(network: CoarseNetwork, cases: ImplantCases) -> list[Row]:
    """Return unmasked metrics and the confidence of every case."""
    rows: list[Row] = []
    for index in range(len(cases)):
        case = cases[index]
        skull, truth = (case[key][0].numpy() > 0 for key in ("image", "implant"))
        probability, _, confidence = network.agreement(skull)
        found = network.implant_of(probability, skull)
        spacing = [float(edge) for edge in case["spacing_mm"]]
        scores = score(found, truth, spacing, defective=skull, kind="implant")
        metrics = {key: float(getattr(scores, key)) for key, _, _ in METRICS}
        about = {"subject": case["subject"], "where": case["where"], "failed": scores.failed}
        rows.append(about | metrics | {"confidence": confidence})
    return rows


def aggregate(rows: Sequence[Row]) -> dict[str, Any]:
    """Return mean, deviation, n and failed by class and over all; failed cases count."""
    classes = dict.fromkeys(row["where"] for row in rows)
    groups = {"all": rows} | {where: [r for r in rows if r["where"] == where] for where in classes}
    found = {}
    for name, group in groups.items():
        found[name] = {
            key: {
                "mean": round(statistics.fmean(row[key] for row in group), 4),
                "std": round(statistics.pstdev(row[key] for row in group), 4),
            }
            for key, _, _ in METRICS
        } | {"n": len(group), "failed": sum(row["failed"] for row in group)}
    both = np.array([(row["confidence"], row["dsc"]) for row in rows])
    error = np.abs(both[:, 0] - both[:, 1]).mean()
    found["confidence"] = {
        "mean": round(float(both[:, 0].mean()), 4),
        "mean_absolute_error": round(float(error), 4),
        "correlation_with_dsc": round(float(np.corrcoef(both.T)[0, 1]), 4),
        "n": len(rows),
    }
    return found


def pack(
    network: CoarseNetwork, run: Path, tables: Mapping[str, Sequence[Row]], into: Path
) -> None:
    """Write weights and cards."""
    provenance = json.loads((run / "provenance.json").read_text())
    _, config = load(str(run / "config.yaml"), [])
    metrics = {name: aggregate(rows) for name, rows in tables.items()}
    subjects = {
        name: len({row["subject"].partition("/")[0] for row in rows})
        for name, rows in tables.items()
    }
    card = {
        "name": "builtin",
        "use": "Research only. Not a medical device, not for treatment or diagnosis.",
        "made_by": "python benchmarks/builtin_model.py "
        f"--epochs {config.training.epochs} --seed {config.seed}",
        "data": {
            "kind": "procedural skulls (famseg.datasets.phantom); no patient data",
            "subjects": config.data.subjects,
            "sha256": provenance["data_hash"],
            "training_samples": network.card["epoch"] * samples_per_epoch(config),
        },
        "training": {
            "epoch": network.card["epoch"],
            "epochs": config.training.epochs,
            "stopped_after": len((run / "metrics.jsonl").read_text().splitlines()),
            "seed": config.seed,
            "config": config.model_dump(mode="json", by_alias=True, exclude={"output", "tracking"}),
            "versions": provenance["versions"],
        },
        "subjects": subjects,
        "metrics": metrics,
        "torch": torch.__version__,
    }
    save_network(network, into, card)
    packed = load_network(into)
    write_atomically(into / "MODEL_CARD.md", markdown(packed).encode())
    print(markdown(packed))


def samples_per_epoch(config: Any) -> int:
    """Return the training samples of an epoch."""
    skulls = config.data.build(config.data.seed)
    return config.draws * (len(skulls.train) + config.phantoms)


def markdown(network: CoarseNetwork) -> str:
    """Return the model card as Markdown."""
    card = network.card
    training = card["training"]
    cut_short = training["stopped_after"] < training["epochs"]
    stopped = f" (stopped after {training['stopped_after']})" if cut_short else ""
    size = sum(value.numel() for value in network.model.state_dict().values())
    lines = [
        "# The built-in model",
        "",
        "**Research only. Not a medical device: nothing that it returns may be used to treat "
        "anybody.**",
        "",
        "A coarse network that predicts the implant of a defective skull on "
        f"{network.size}^3 voxels of {network.spacing_mm:g} mm: {size / 1e6:.2f} million weights "
        "in float16. `famseg reconstruct builtin` refines its answer at the resolution of the "
        "input.",
        "",
        f"- Data: {card['data']['subjects']} {card['data']['kind']}; "
        f"{card['data']['training_samples']} training samples, each a new defect of one of five "
        "classes in a head that was moved and bent.",
        f"- Training: configs/implant.yaml, seed {card['training']['seed']}, epoch "
        f"{training['epoch']} of {training['epochs']}{stopped}, torch {card['torch']}. Made by "
        f"`{card['made_by']}`.",
        f"- Threshold {network.threshold:g}, chosen on validation phantoms, as is the confidence "
        f"(n = {network.curve.n}, rank correlation {network.curve.spearman}).",
        f"- SHA-256 of weights.pt: `{card['sha256']}`",
        "",
        "Implant metrics, unmasked (all that is added to the skull counts), mean ± standard "
        "deviation over cases; a case without a prediction has failed and counts with DSC 0 and "
        "the diagonal of the volume as distance.",
    ]
    for name, groups in card["metrics"].items():
        lines += ["", f"## {name.capitalize()} ({card['subjects'][name]} heads)", ""]
        lines += _table(groups)
        about = groups["confidence"]
        lines += [
            "",
            f"Confidence: mean {about['mean']:.2f}, off the DSC by "
            f"{about['mean_absolute_error']:.3f} on average, correlation with it "
            f"{about['correlation_with_dsc']:.2f} (n = {about['n']}).",
        ]
    return "\n".join([*lines, "", *LIMITS]) + "\n"


LIMITS = (
    "## Limits",
    "",
    "- It has never seen a real head in training: shapes that the phantoms lack (a thick diploe, "
    "sutures, implants, metal, children's skulls) are unknown to it, and so is how far its "
    "confidence holds on them: that was calibrated on phantoms.",
    "- An implant is two voxels thick on this grid. The orbit and the base are coarse.",
    "- A defect that touches the edge of the scan cannot be completed.",
    "- Real heads in the tables were used for nothing else. Four others were looked at while "
    "settings were chosen; they are in no table.",
)


def _table(groups: Mapping[str, Any]) -> list[str]:
    lines = [
        "| class | " + " | ".join(label for _, label, _ in METRICS) + " | n | failed |",
        "|---|" + "---|" * (len(METRICS) + 2),
    ]
    for name, found in groups.items():
        if name == "confidence":
            continue
        cells = [f"{found[k]['mean']:.{d}f} ± {found[k]['std']:.{d}f}" for k, _, d in METRICS]
        lines.append(f"| {name} | {' | '.join(cells)} | {found['n']} | {found['failed']} |")
    return lines


if __name__ == "__main__":
    main()
