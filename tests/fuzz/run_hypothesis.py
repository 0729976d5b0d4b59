"""Fuzz every target in turn with hypothesis until the time is up, and say what was found.

Run as ``python tests/fuzz/run_hypothesis.py SECONDS``; ``make fuzz`` does.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from strategies import VALUES, near
from targets import TARGETS, check

_ROUND = 100
_OPTIONS = settings(
    max_examples=_ROUND,
    database=None,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


def fuzz(name: str, content: st.SearchStrategy[bytes], number: int, counts: Counter[str]) -> None:
    """Run one round of a target, counting what it was given; raise what is found."""

    @seed(number)
    @_OPTIONS
    @given(content)
    def given_to(example: bytes) -> None:
        counts[name] += 1
        check(name, example)

    given_to()


def main() -> int:
    """Fuzz for as many seconds as the command line says."""
    import json

    end = time.monotonic() + float(sys.argv[1])
    documents = VALUES.map(lambda value: json.dumps(value).encode())
    counts: Counter[str] = Counter()
    found: set[str] = set()
    number = 0
    while time.monotonic() < end:
        number += 1
        for name in TARGETS:
            content = near(name) | documents if name in ("config", "yaml") else near(name)
            try:
                fuzz(name, content, number, counts)
            except Exception:
                text = traceback.format_exc()
                if (last := text.splitlines()[-1]) not in found:
                    found.add(last)
                    print(f"{name}, round {number}: {text}", flush=True)
            if time.monotonic() > end:
                break
    for name, count in counts.items():
        print(f"{name:12}{count:>10}")
    print(f"hypothesis: {sum(counts.values())} executions, {len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
