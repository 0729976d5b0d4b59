"""python record_toy.py RUN_FOLDER STORE EVENT N: records a run of three epochs, as training does.

It is killed before the N-th file event that matches EVENT, or once MLflow has made the run if EVENT
is "created". What is there already is resumed.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import mlflow
import torch

from famseg.engine import RunConfig
from famseg.engine._recorder import recorder_of
from famseg.runs import RunFolder


def die_at(event: str, number: int) -> None:
    seen = 0

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def tick(name: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if name == "os.rename" and re.search(event, str(arguments[1])):
            seen += 1
            if seen == number:
                die()

    sys.addaudithook(tick)
    if event == "created":
        create = mlflow.MlflowClient.create_run

        def killed(*arguments: object, **options: object) -> None:
            create(*arguments, **options)  # type: ignore[arg-type]
            die()

        mlflow.MlflowClient.create_run = killed  # type: ignore[method-assign, assignment]


def main(path: Path, store: str) -> None:
    config = RunConfig.model_validate(
        {
            "pipeline": "skull",
            "training": {"epochs": 3},
            "penalty": {"kind": "none"},
            "tracking": {"uri": store},
        }
    )
    experiment = SimpleNamespace(
        data_hash="", write_manifest=lambda path: None, key_metric="dsc", scores=()
    )
    begun = (path / "metrics.jsonl").exists()
    done = len((path / "metrics.jsonl").read_text().splitlines()) if begun else 0
    recorder = recorder_of(
        RunFolder(path),
        experiment,  # type: ignore[arg-type]  # what of it is asked
        config=config,
        device=torch.device("cpu"),
        weights=None,
        epochs=done if begun else None,
    )
    with recorder.tracker:
        for epoch in range(done + 1, 4):
            recorder.epoch(epoch, {"train/loss": 1 / epoch})
        recorder.evaluated({"test/dsc": 0.5})


if __name__ == "__main__":
    die_at(sys.argv[3], int(sys.argv[4]))
    main(Path(sys.argv[1]), sys.argv[2])
