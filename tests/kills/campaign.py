"""Kills trainings at random events, resumes them, and compares the result with a complete run.

``python tests/kills/campaign.py --kills 100`` prints the table; about eight minutes on two cores.
Tasks are the skull autoencoder and an image classifier, each with one and two ranks. Half of the
kills happen before a random change of a file (see `famseg_killed.py` for the kinds), by the process
itself; the other half at a random time. One resume in three is killed as well. Where one of two
ranks is killed, the other is ended as torchrun does: SIGTERM, and SIGKILL ten seconds later.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))

import warm  # noqa: E402
from tiny import TINY  # noqa: E402

EPOCHS = 4
_SHARED = [f"training.epochs={EPOCHS}", "output=runs", "training.threads=1"]
_TASKS = {
    "skull": ["--config", "smoke/skull.yaml", *TINY, *_SHARED, "training.batch_size=2"],
    "classification": [
        "--config",
        "smoke/fashionmnist_fam.yaml",
        "data.train=100",
        "data.train_limit=100",
        "data.test_limit=32",
        *_SHARED,
        "training.batch_size=16",
    ],
}
KINDS = tuple(itertools.product(_TASKS, (1, 2)))
COLUMNS = ("resumed", "same weights", "whole record", "one MLflow run", "nothing left over")
_LONGEST_S = 240.0
_GRACE_S = 10.0
_MOST_TRIES = 12


@dataclass(frozen=True)
class Kill:
    """The time at which a rank is killed.

    Args:
        rank: Which.
        event: Index of the file change before which it is killed; 0 for none.
        seconds: Otherwise the time after which it is killed.
    """

    rank: int
    event: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        where = f"event {self.event}" if self.event else f"{self.seconds:.2f} s"
        return f"rank {self.rank} at {where}"


@dataclass(frozen=True)
class Whole:
    """An uninterrupted run.

    Args:
        found: What is compared.
        events: How many changes to files each rank made.
        seconds: How long it took.
    """

    found: Found
    events: Sequence[int]
    seconds: float


@dataclass(frozen=True)
class Found:
    """The results of a run in its working folder.

    Args:
        weights: Bytes of all tensors by name, of both checkpoints.
        record: Rows of metrics.jsonl without times.
        tracked: Runs in MLflow: status, and steps and values by metric.
        files: Names of all files and folders.
    """

    weights: Mapping[str, bytes]
    record: Sequence[Mapping[str, Any]]
    tracked: Sequence[tuple[str, Mapping[str, Any]]]
    files: frozenset[str]


@dataclass
class Row:
    """One killed run.

    Args:
        kind: Task and number of ranks.
        kills: Where it was killed.
        faults: What went wrong, by column.
    """

    kind: tuple[str, int]
    kills: list[Kill] = field(default_factory=list)
    faults: dict[str, str] = field(default_factory=dict)


def whole_run(kind: tuple[str, int], folder: Path) -> Whole:
    """Train without a kill."""
    folder.mkdir()
    began = time.monotonic()
    statuses = _train(kind, folder, None, resume=False)
    seconds = time.monotonic() - began
    if any(statuses):
        raise RuntimeError(f"{kind}: the run without kills ended with {statuses}: {_said(folder)}")
    counts = [int((folder / f"counts.{rank}").read_text()) for rank in range(kind[1])]
    return Whole(look(folder), counts, seconds)


def killed_run(kind: tuple[str, int], whole: Whole, folder: Path, chance: random.Random) -> Row:
    """Train with a kill, resume to the end, and compare."""
    folder.mkdir()
    row = Row(kind)
    for number in range(_MOST_TRIES):
        kill = _draw(whole, chance) if number == 0 or chance.random() < 1 / 3 else None
        if kill is not None:
            row.kills.append(kill)
        statuses = _train(kind, folder, kill, resume=number > 0)
        if not any(statuses):
            break
        if kill is None:
            row.faults["resumed"] = f"exit {statuses}: {_said(folder)}"
            return row
    else:
        row.faults["resumed"] = "killed at each try"
        return row
    row.faults = compare(look(folder), whole.found)
    return row


def compare(found: Found, wanted: Found) -> dict[str, str]:
    """Return the differences from an uninterrupted run, by column."""
    faults = {}
    if found.weights != wanted.weights:
        names = sorted(found.weights.keys() ^ wanted.weights.keys()) or [
            name for name, value in wanted.weights.items() if found.weights[name] != value
        ]
        faults["same weights"] = ", ".join(names[:3])
    if list(found.record) != list(wanted.record):
        faults["whole record"] = f"epochs {[row.get('epoch') for row in found.record]}"
    if list(found.tracked) != list(wanted.tracked):
        seen = [(status, _points(metrics)) for status, metrics in found.tracked]
        faults["one MLflow run"] = f"{seen} for {[_points(m) for _, m in wanted.tracked]}"
    if found.files != wanted.files:
        more, less = sorted(found.files - wanted.files), sorted(wanted.files - found.files)
        faults["nothing left over"] = f"more {more[:4]}, less {less[:4]}"
    return faults


def _points(metrics: Mapping[str, Any]) -> str:
    return f"{len(metrics)} metrics, {sum(map(len, metrics.values()))} points"


def _draw(whole: Whole, chance: random.Random) -> Kill:
    rank = chance.randrange(len(whole.events))
    if chance.random() < 0.5 and whole.events[rank]:
        return Kill(rank, event=chance.randint(1, whole.events[rank]))
    return Kill(rank, seconds=chance.uniform(0.0, whole.seconds))


def _train(kind: tuple[str, int], folder: Path, kill: Kill | None, *, resume: bool) -> list[int]:
    """Run the command in all ranks; return their exit statuses."""
    task, world = kind
    environment = {**os.environ, "FAMSEG_CACHE": str(folder / "cache")}
    started, began = [], time.monotonic()
    for rank, variables in enumerate(warm.rank_variables(world)):
        event = kill.event if kill is not None and kill.rank == rank else 0
        words = [
            str(HERE / "famseg_killed.py"),
            *(str(folder / "work"), str(event), str(folder / f"counts.{rank}")),
            *("train", *_TASKS[task], *(["--resume"] if resume else [])),
        ]
        (folder / "work").mkdir(exist_ok=True)
        output = folder / f"output-{rank}"
        started.append(warm.start(words, output, folder / "work", {**environment, **variables}))
    ended_s = None
    while any(process.exitcode is None for process in started):
        now = time.monotonic() - began
        if kill is not None and not kill.event and now >= kill.seconds:
            started[kill.rank].kill()
        if ended_s is None and any(process.exitcode for process in started):
            ended_s = now
            for process in started:
                process.terminate()
        if now > _LONGEST_S or (ended_s is not None and now > ended_s + _GRACE_S):
            for process in started:
                process.kill()
        time.sleep(0.01)
    return [process.exitcode or 0 for process in started]


def _said(folder: Path) -> str:
    lines = (folder / "output-0.2").read_text().strip().splitlines()
    return lines[-1] if lines else "nothing said"


def look(folder: Path) -> Found:
    """Read the results of a finished run."""
    work = folder / "work"
    runs = sorted((work / "runs").iterdir())
    files = frozenset(str(path.relative_to(work)) for path in work.rglob("*"))
    return Found(
        weights=dict(_weights(runs[0])),
        record=_record(runs[0] / "metrics.jsonl"),
        tracked=_tracked_or_why_not(work / "mlflow.db"),
        files=frozenset(_without_identity(name) for name in files),
    )


def _weights(run: Path) -> Iterator[tuple[str, bytes]]:
    import torch

    for name in ("last", "best"):
        state = torch.load(run / "checkpoints" / f"{name}.pt", weights_only=True)
        for key, value in state["model"].items():
            yield f"{name}: {key}", value.numpy().tobytes()


def _record(path: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in row.items() if not _is_time(key)} for row in rows]


def _is_time(key: str) -> bool:
    return "time" in key or key.endswith(("_s", "per_second")) or "second" in key


def _tracked_or_why_not(database: Path) -> list[tuple[str, dict[str, Any]]]:
    try:
        return _tracked(database)
    except Exception as error:  # any error of MLflow for a store damaged by a kill
        return [(f"{type(error).__name__}: {error}".split("\n")[0], {})]


def _tracked(database: Path) -> list[tuple[str, dict[str, Any]]]:
    from mlflow import MlflowClient
    from mlflow.entities import ViewType

    client = MlflowClient(f"sqlite:///{database}")
    experiments = [each.experiment_id for each in client.search_experiments()]
    found = []
    for run in client.search_runs(experiments, run_view_type=ViewType.ALL):
        metrics = {}
        for key in sorted(run.data.metrics):
            if key.startswith("system/"):  # the load of the machine
                continue
            points = client.get_metric_history(run.info.run_id, key)
            steps = sorted((point.step, point.value) for point in points)
            metrics[key] = [step for step, _ in steps] if _is_time(key) else steps
        found.append((run.info.status, metrics))
    return found


def _without_identity(name: str) -> str:
    """Remove MLflow's random ids from a file's name."""
    parts = ["*" if len(part) == 32 and part.isalnum() else part for part in Path(name).parts]
    if "images" in parts:  # of a series, with the time in their names
        parts[-1] = "image" + Path(parts[-1]).suffix
    return str(Path(*parts))


def campaign(kills: int, seed: int, folder: Path) -> Iterator[Row]:
    """Kill the given number of runs, of each kind in turn."""
    chance = random.Random(seed)  # noqa: S311  # kills, not keys
    wholes: dict[tuple[str, int], Whole] = {}
    for number in range(kills):
        kind = KINDS[number % len(KINDS)]
        if kind not in wholes:
            wholes[kind] = whole_run(kind, folder / f"whole-{kind[0]}-{kind[1]}")
        yield killed_run(kind, wholes[kind], folder / f"killed-{number}", chance)


def table(rows: Sequence[Row]) -> str:
    """Return how many runs are correct in each column, by kind."""
    lines = [f"| task | ranks | runs | kills | {' | '.join(COLUMNS)} |", "|---" * 9 + "|"]
    for kind in (*KINDS, None):
        mine = [row for row in rows if kind in (None, row.kind)]
        name = "all | " if kind is None else f"{kind[0]} | {kind[1]}"
        right = " | ".join(str(sum(each not in row.faults for row in mine)) for each in COLUMNS)
        kills = sum(len(row.kills) for row in mine)
        lines.append(f"| {name} | {len(mine)} | {kills} | {right} |")
    return "\n".join(lines)


def main() -> None:
    """Run the campaign given on the command line; exit with 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="how many runs are killed")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of kills")
    options = parser.parse_args()
    rows = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as folder:
        for row in campaign(options.kills, options.seed, Path(folder)):
            rows.append(row)
            faults = "; ".join(f"NOT {key}: {text}" for key, text in row.faults.items())
            kills = ", ".join(map(str, row.kills))
            print(f"{len(rows)} {row.kind[0]} x {row.kind[1]}: {kills}: {faults or 'right'}")
    print(table(rows))
    sys.exit(any(row.faults for row in rows))


if __name__ == "__main__":
    main()
