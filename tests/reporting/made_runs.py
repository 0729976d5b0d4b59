"""Run folders as the engine leaves them, written by hand: no training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from famseg.config import load, to_yaml
from famseg.evaluation import CaseRow, write_cases
from famseg.files import write_json
from famseg.tracking import LocalRecord

BASELINE = ("penalty={kind: none}",)
FAM = ("lambda=0.1",)
SAM = (*BASELINE, "sam={rho: 0.05}")


def make_run(
    folder: Path,
    name: str,
    *,
    seed: int = 0,
    settings: Sequence[str] = BASELINE,
    metrics: Mapping[str, float] | None = None,
    epochs: int = 2,
    data_hash: str = "0123456789",
    created: str = "2026-01-01T00:00:00+00:00",
    dsc: Sequence[float] | None = None,
    config: str | None = None,
) -> Path:
    """Write a run folder; without metrics and scores it is one that did not finish.

    Args:
        folder: Where.
        name: Its name.
        seed: Its seed.
        settings: Overrides of the smoke configuration of the skulls.
        metrics: The numbers of the evaluation.
        epochs: Epochs that were trained, of 2; 4 seconds each.
        data_hash: Fingerprint of the data.
        created: When it began.
        dsc: Dice coefficient of the implant of each test case; writes the table of cases and adds
            its mean to the metrics.
        config: The text of ``config.yaml`` instead.
    """
    path = folder / name
    path.mkdir(parents=True)
    if config is None:
        config = to_yaml(load("smoke/skull.yaml", [*settings, f"seed={seed}", f"name={name}"])[1])
    (path / "config.yaml").write_text(config)
    write_json(path / "provenance.json", {"data_hash": data_hash, "created": created})
    record = LocalRecord.create(path)
    for epoch in range(1, epochs + 1):
        record.append(epoch, {"train/loss": 0.5, "train/epoch_seconds": 4.0})
    evaluation = path / "evaluation"
    found = dict(metrics or {})
    if dsc is not None:
        evaluation.mkdir()
        write_cases(
            [_case(number, score) for number, score in enumerate(dsc)], evaluation / "cases.csv"
        )
        found |= {"test/set1/implant/dsc": sum(dsc) / len(dsc)}
    if found:
        evaluation.mkdir(exist_ok=True)
        write_json(evaluation / "checkpoint.json", {"checkpoint": "best", "epoch": epochs})
        write_json(evaluation / "metrics.json", found)
    return path


def _case(number: int, dsc: float) -> CaseRow:
    """Return the implant of a case whose answer is empty where the score is 0."""
    distances = ("hd", "hd95", "hd95_directed", "hd95_pooled", "assd")
    return CaseRow(
        set="set1",
        subject=f"head{number}",
        source="model",
        region="implant",
        tolerance_mm=1.0,
        voxels=10,
        truth_voxels=100 + number,
        failed=dsc == 0,
        empty_truth=False,
        values={"dsc": dsc, "bdsc": None, "nsd": dsc, "volume_difference_ml": 0.0}
        | {"components": 1, "roughness_mm": None}
        | {f"{name}_{unit}": 1.0 for name in distances for unit in ("mm", "voxels")},
    )


def write_class_cases(path: Path, correct: Sequence[int]) -> None:
    """Write a table of cases as classifiers have it: test samples, and one of the training."""
    header = "set,subject,label,prediction,correct,failed,confidence,loss"
    lines = [f"test,test-{i},1,{int(c)},{c},False,0.9,{0.5 - c / 4}" for i, c in enumerate(correct)]
    (path / "evaluation").mkdir(exist_ok=True)
    text = "\n".join([header, "train,train-0,0,0,1,False,0.9,0.1", *lines, ""])
    (path / "evaluation" / "cases.csv").write_text(text)


def content(path: Path) -> dict[str, object]:
    """Return what a JSON file holds."""
    loaded: dict[str, object] = json.loads(path.read_text())
    return loaded
