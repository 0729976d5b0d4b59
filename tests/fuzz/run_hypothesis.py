"""Fuzz every target in turn with hypothesis until the time is up, and print the findings.

Run as ``python tests/fuzz/run_hypothesis.py SECONDS [TARGET ...]``; ``make fuzz`` does. Each round
runs in its own process, so that an input that ends it is a finding like others: its input is
written to the working folder as ``crash-...``.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
import time
import traceback
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from hypothesis import HealthCheck, Phase, given, seed, settings
from seeds import seeds
from strategies import VALUES, near
from targets import TARGETS, check

_ROUND = 100
_LONGEST_S = 120
_OPTIONS = settings(
    max_examples=_ROUND,
    database=None,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


def fuzz(name: str, number: int, last: Path, sender: Connection) -> None:
    """Run one round of a target; send the number of inputs and the findings."""
    count = 0
    documents = VALUES.map(lambda value: json.dumps(value).encode())

    @seed(number)
    @_OPTIONS
    @given(near(name) | documents if name in ("config", "yaml") else near(name))
    def given_to(content: bytes) -> None:
        nonlocal count
        count += 1
        last.write_bytes(content)
        check(name, content)

    try:
        given_to()
        sender.send((count, ""))
    except Exception:
        sender.send((count, traceback.format_exc()))


def attempt(name: str, number: int, last: Path) -> tuple[int, str]:
    """Run one round in its own process."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=fuzz, args=(name, number, last, sender))
    process.start()
    sender.close()
    try:
        if receiver.poll(_LONGEST_S):
            count, found = receiver.recv()
            return int(count), str(found)
        why = f"still at work after {_LONGEST_S} s"
    except EOFError:
        process.join()
        why = f"the process ended with {process.exitcode}"
    finally:
        process.kill()
        process.join()
    kept = Path(f"crash-{name}-{number}")
    kept.write_bytes(last.read_bytes())
    return _ROUND // 2, f"{why}: {kept}"


def main() -> int:
    """Fuzz for the number of seconds on the command line."""
    seconds, *names = sys.argv[1:]
    counts: Counter[str] = Counter()
    found: set[str] = set()
    number = 0
    for name in names or TARGETS:  # modules of the targets are imported before forking
        check(name, seeds(name)[0])
    with tempfile.TemporaryDirectory(prefix="famseg-fuzz-") as folder:
        end = time.monotonic() + float(seconds)
        while time.monotonic() < end:
            number += 1
            for name in names or TARGETS:
                count, text = attempt(name, number, Path(folder, "last"))
                counts[name] += count
                key = f"{name}: {(text.splitlines() or [''])[-1].partition(': crash-')[0]}"
                if text and key not in found:
                    found.add(key)
                    print(f"{name}, round {number}: {text}", flush=True)
                if time.monotonic() > end:
                    break
    for name, count in counts.items():
        print(f"{name:12}{count:>10}")
    print(f"hypothesis: {sum(counts.values())} executions, {len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
