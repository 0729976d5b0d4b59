"""Kills sweeps and their trials at random times and checks that nothing is lost or done twice.

``python tests/sweep/sweep_campaign.py --kills 100`` prints the table; ten minutes on two cores.
Each sweep has four trials of an image classifier (two lambdas, two seeds), two at once. Five times
one of its processes, the sweep or a trial, is killed by SIGKILL at a random time. Every third time
two sweeps are started at once. Finally the sweep runs until it reports that all trials are
finished, and every trial is compared with that of an uninterrupted sweep.

``--disk FOLDER``, a folder on a small file system of its own, fills that before and while the sweep
runs: files that cannot be written must be named, and all trials must finish once there is space.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "support"), str(HERE.parent / "kills")]

import warm  # noqa: E402
from campaign import _record, _tracked_or_why_not, _weights, _without_identity  # noqa: E402
from tiny import TINY_CLASSES  # noqa: E402

from famseg.runs import owner_of  # noqa: E402

EPOCHS = 3
TRIALS = 4
WORDS = (
    *("sweep", "--config", "smoke/fashionmnist_fam.yaml", "--out", "sweep", "--jobs", "2"),
    *("lambda=0,0.1", "seed=1,2", *TINY_CLASSES, f"training.epochs={EPOCHS}"),
)
PROGRAM = HERE.parent / "support" / "forking_sweep.py"
COLUMNS = ("all finished", "same weights", "each epoch once", "one MLflow run", "nothing left over")
_KILLS_EACH = 5
_MOST_TRIES = 8


@dataclass(frozen=True)
class Found:
    """The results of a sweep by trial, and the names of all files."""

    weights: dict[str, dict[str, bytes]]
    records: dict[str, list[dict[str, Any]]]
    tracked: list[str]
    files: frozenset[str]


@dataclass
class Row:
    """A sweep that was killed.

    Args:
        kills: How many processes of each kind were killed.
        twice: How often two sweeps were started at once.
        faults: What went wrong, by column.
    """

    kills: Counter[str] = field(default_factory=Counter)
    twice: int = 0
    faults: dict[str, str] = field(default_factory=dict)


def start(folder: Path, beside: Path | None = None) -> Any:
    """Start the sweep in a folder; cache and output are next to it, or elsewhere."""
    beside = beside or folder.parent
    environment = {**os.environ, "FAMSEG_CACHE": str(beside / "cache")}
    output = beside / f"said-{folder.name}-{time.monotonic_ns()}"
    return warm.start([str(PROGRAM), *WORDS], output, folder, environment)


def whole_sweep(folder: Path) -> tuple[Found, float]:
    """Run an uninterrupted sweep; return its results and how long it took."""
    folder.mkdir()
    began = time.monotonic()
    process = start(folder)
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the sweep without kills ended with {process.exitcode}")
    return look(folder), time.monotonic() - began


def killed_sweep(whole: Found, seconds: float, folder: Path, chance: random.Random) -> Row:
    """Run a sweep, kill it and its trials, run it to its end, and compare."""
    folder.mkdir()
    row = Row()
    running: list[Any] = []
    while row.kills.total() < _KILLS_EACH:
        running = [each for each in running if each.exitcode is None]
        if not running:
            number = 2 if chance.random() < 1 / 3 else 1
            row.twice += number == 2
            running = [start(folder) for _ in range(number)]
        time.sleep(chance.uniform(0, seconds / TRIALS))
        sweeps = [("sweep", each.pid) for each in running if each.exitcode is None]
        victims = [*sweeps, *(("trial", pid) for pid in _trials(folder))]
        if victims:
            kind, pid = chance.choice(victims)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                row.kills[kind] += 1
        elif all(each.exitcode is not None for each in running) and _finished(folder):
            break  # it finished before the next kill
    for each in running:
        each.join()
    for _ in range(_MOST_TRIES):
        process = start(folder)
        process.join()
        if process.exitcode == 0:
            break
    else:
        row.faults["all finished"] = f"exit {process.exitcode}"
        return row
    row.faults = compare(look(folder), whole)
    return row


def _trials(folder: Path) -> list[int]:
    owners = [owner_of(path) for path in folder.glob("sweep/trials/*")]
    return [owner.pid for owner in owners if owner is not None]


def _finished(folder: Path) -> bool:
    return len(list(folder.glob("sweep/trials/*/evaluation/metrics.json"))) == TRIALS


def look(folder: Path) -> Found:
    """Read the results of a finished sweep."""
    trials = sorted((folder / "sweep" / "trials").iterdir())
    tracked = _tracked_or_why_not(folder / "mlflow.db")
    points = [f"{status}: {sorted(metrics.items())}" for status, metrics in tracked]
    files = frozenset(
        _without_identity(str(path.relative_to(folder)))
        for path in folder.rglob("*")
        if path.parent.name != "logs"
    )
    return Found(
        weights={path.name: dict(_weights(path)) for path in trials},
        records={path.name: _record(path / "metrics.jsonl") for path in trials},
        tracked=sorted(points),
        files=files,
    )


def compare(found: Found, wanted: Found) -> dict[str, str]:
    """Return the differences from an uninterrupted sweep, by column."""
    faults = {}
    if found.weights.keys() != wanted.weights.keys():
        faults["all finished"] = f"trials {sorted(found.weights)}"
    differing = [name for name, of in wanted.weights.items() if found.weights.get(name) != of]
    if differing:
        faults["same weights"] = ", ".join(differing)
    records = [name for name, of in wanted.records.items() if found.records.get(name) != of]
    if records:
        faults["each epoch once"] = ", ".join(records)
    if found.tracked != wanted.tracked:
        faults["one MLflow run"] = f"{len(found.tracked)} runs: {[x[:9] for x in found.tracked]}"
    if found.files != wanted.files:
        more, less = sorted(found.files - wanted.files), sorted(wanted.files - found.files)
        faults["nothing left over"] = f"more {more[:4]}, less {less[:4]}"
    return faults


def campaign(kills: int, seed: int, folder: Path) -> Iterator[Row]:
    """Run sweeps until the given number of processes has been killed."""
    chance = random.Random(seed)  # noqa: S311  # kills, not keys
    whole, seconds = whole_sweep(folder / "whole")
    done = number = 0
    while done < kills:
        row = killed_sweep(whole, seconds, folder / f"killed-{number}", chance)
        number, done = number + 1, done + row.kills.total()
        yield row


def full_disk(
    whole: Found, disk: Path, wrote: Path, steps: int = 4
) -> Iterator[tuple[str, dict[str, str]]]:
    """Run sweeps with little disk space; yield the output of the first start, and the final faults.

    Args:
        whole: An uninterrupted sweep.
        disk: A folder on a file system that may be filled up.
        wrote: The folder of the uninterrupted sweep.
        steps: How many amounts of free space are tried, from none to the size of one trial.
    """
    need = sum(each.stat().st_size for each in wrote.rglob("*") if each.is_file())
    for step in range(steps):
        folder, ballast = disk / f"sweep-{step}", disk / "ballast"
        folder.mkdir()
        room = int(need * step / steps)
        size = os.statvfs(disk)
        with ballast.open("wb") as file, suppress(OSError):
            for _ in range(max(0, size.f_bavail * size.f_frsize - room) // 4096):
                file.write(bytes(4096))
        process = start(folder, wrote.parent)
        process.join()
        first = f"room for {room // 1024} KiB: exit {process.exitcode}"
        ballast.unlink()
        process = start(folder, wrote.parent)
        process.join()
        faults = {} if process.exitcode == 0 else {"all finished": f"exit {process.exitcode}"}
        yield first, faults or compare(look(folder), whole)
        shutil.rmtree(folder)


def table(rows: Sequence[Row]) -> str:
    """Return how many sweeps are correct in each column."""
    kills = sum((row.kills for row in rows), Counter[str]())
    head = ["sweeps", "trials", "kills of the sweep", "of a trial", "two at once", *COLUMNS]
    right = [sum(column not in row.faults for row in rows) for column in COLUMNS]
    twice = sum(row.twice for row in rows)
    cells = [len(rows), TRIALS * len(rows), kills["sweep"], kills["trial"], twice, *right]
    lines = [" | ".join(head), " | ".join(["---"] * len(head)), " | ".join(map(str, cells))]
    return "\n".join(f"| {line} |" for line in lines)


def main() -> None:
    """Run the campaign given on the command line; exit with 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="how many processes are killed")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of kills")
    parser.add_argument("--disk", type=Path, help="fill this small file system instead")
    options = parser.parse_args()
    rows: list[Row] = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as folder:
        if options.disk is not None:
            whole, _ = whole_sweep(Path(folder, "whole"))
            for said, faults in full_disk(whole, options.disk, Path(folder, "whole")):
                rows.append(Row(faults=faults))
                print(f"{said}, then {faults or 'right'}", flush=True)
            sys.exit(any(row.faults for row in rows))
        for row in campaign(options.kills, options.seed, Path(folder)):
            rows.append(row)
            faults = "; ".join(f"NOT {key}: {text}" for key, text in row.faults.items())
            print(f"{len(rows)}: {dict(row.kills)}, two at once {row.twice}: {faults or 'right'}")
            sys.stdout.flush()
    print(table(rows))
    sys.exit(any(row.faults for row in rows))


if __name__ == "__main__":
    main()
