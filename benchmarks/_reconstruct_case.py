"""A case of `benchmarks/reconstruct.py`: the work of the command in a separate process.

It imports only modules that `famseg reconstruct` imports, and in the same way.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from itertools import pairwise
from pathlib import Path


def run_case(path: Path, out: Path) -> dict[str, object]:
    """Reconstruct as the command does; return seconds by stage and the record."""
    marks = [("imports", time.process_time())]
    import famseg.cli  # noqa: F401  # makes the import of MONAI as fast as in the command
    from famseg.reconstruction import Options, Outputs, find_inputs, load_network, reconstruct_all

    marks.append(("model", time.process_time()))
    network = load_network("builtin")
    outputs = Outputs(("stl",))

    def begun(_: str, stage: str) -> None:
        marks.append((stage, time.process_time()))

    found = find_inputs([path]).found
    done = reconstruct_all(found, network, out, Options(), outputs, begun=begun)
    marks.append(("end", time.process_time()))
    seconds = {"start": marks[0][1]}
    for (name, begin), (_, end) in pairwise(marks):
        seconds[name] = seconds.get(name, 0.0) + end - begin
    return {"seconds": seconds, "reason": done[0].reason, "case": done[0].case}


if __name__ == "__main__":
    result = run_case(Path(sys.argv[1]), Path(sys.argv[2]))
    result["gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    sys.stdout.write(json.dumps(result))
