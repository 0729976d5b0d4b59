"""Cost of a flatness penalty, compared with a plain step, SAM and other libraries in one run.

python benchmarks/flatness.py --out benchmarks/results/flatness.md

Contestants take turns between plain steps, so that disturbances of the machine affect both alike; a
ratio is the median over the turns. Peak memory is that of a separate process, or of the allocator
of a GPU. Takes about twenty minutes on two otherwise idle cores; ``--quick`` checks in one minute
that everything runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from _flatness_layers import CURVLINOPS_PACKAGES, bottleneck, growth, head, peers
from _flatness_page import Row, page
from _flatness_steps import SAM_PACKAGE, autoencoder_contestants, resnet_contestants
from _measure import Contestant, Spread, environment, say, timings
from _memory import peak

from famseg.engine import keep_freed_memory

# Promised ratios to the plain step: time and peak memory.
TARGETS = {
    "FAM, closed form": (1.03, None),
    "FAM, default: mean over the steps": (1.15, 1.5),
    "FAM, noise": (1.05, None),
}
_GROWTH = {
    "m": [(8, m) for m in (64, 256, 1024, 4096, 16384)],
    "d": [(d, 1024) for d in (8, 32, 128, 512)],
}
_QUICK_GROWTH = {"m": [(4, m) for m in (8, 16, 32)], "d": [(d, 16) for d in (4, 8, 16)]}
_DRAWS = 64  # of a random method: only a mean shows bias


def compared(
    title: str,
    contestants: Sequence[Contestant],
    rounds: int,
    device: str,
    threads: int,
    *,
    processes: int = 1,
) -> list[Row]:
    """Measure time and memory of contestants; the first is the plain step.

    Args:
        title: Title of the progress messages.
        contestants: The contestants.
        rounds: How many.
        device: Where they run.
        threads: How many a process may use.
        processes: Number of processes in which memory is measured.
    """
    say(title)
    timed = timings(contestants, rounds, device)
    weighed = {}
    for one in contestants:
        if one.missing is None:
            say(f"  {one.name}: memory")
            times = processes if one.each < 4 else 1
            weighed[one.name] = peak(one.build, device, threads, times=times)
    base = weighed[contestants[0].name]
    rows = []
    for one in contestants:
        if one.missing is not None:
            rows.append(Row(one.name, missing=f"not installed: {one.missing}"))
            continue
        timing, memory = timed[one.name], weighed[one.name]
        rows.append(
            Row(
                one.name,
                first=timing.first,
                seconds=Spread.of(timing.seconds),
                ratio=Spread.of(timing.ratios),
                cpu_ratio=None if device == "cuda" else Spread.of(timing.cpu_ratios),
                memory=memory,
                memory_ratio=memory.peak / base.peak if memory and base else None,
                target=TARGETS.get(one.name),
            )
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything and write Markdown and JSON."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    # As in training: otherwise a step pays for memory that the previous contestant has freed.
    # Memory is measured in separate processes with the default settings of glibc.
    keep_freed_memory()
    device, quick, threads = options.device, options.quick, options.threads
    packages = ["torch", "monai", "pytorch_optimizer", "curvlinops-for-pytorch"]
    surroundings = environment(device, threads, packages)
    rounds, draws = (2, 4) if quick else (options.rounds, _DRAWS)
    resnet = compared("ResNet18", resnet_contestants(device, quick=quick), rounds, device, threads)
    autoencoder = compared(
        "autoencoder",
        autoencoder_contestants(device, quick=quick),
        rounds,
        device,
        threads,
        processes=1 if quick else 3,
    )
    say("growth")
    grown = [
        cost
        for varied, sizes in (_QUICK_GROWTH if quick else _GROWTH).items()
        for cost in growth(varied, sizes, device, threads)
    ]
    say("peers")
    small, large = (partial(head, 10, m, device=device) for m in (64, 512))
    ours = ["closed_form", "columns", "hutchinson"]
    middle = ["columns", "hutchinson", "finite_difference"]
    layers = [
        ("head 10 x 64, n = 128", small, [*ours, "exact"]),
        ("bottleneck 64 x 8, 16^3", partial(bottleneck, device=device), middle),
    ]
    if not quick:  # the same for a larger head
        layers.append(("head 10 x 512, n = 128", large, ours))
    beside = [row for layer in layers for row in peers(*layer, device, threads, draws)]
    surroundings["command"] = _command(options)
    text = page(surroundings, resnet, autoencoder, grown, beside, draws)
    print(text)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n")
        data = {
            "environment": surroundings,
            "resnet": [dataclasses.asdict(row) for row in resnet],
            "autoencoder": [dataclasses.asdict(row) for row in autoencoder],
            "growth": [one._asdict() for one in grown],
            "peers": [one._asdict() for one in beside],
        }
        options.out.with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n")


def _command(options: argparse.Namespace) -> str:
    # The actual command: the results depend on rounds and threads.
    parts = [f"--rounds {options.rounds} --threads {options.threads} --device {options.device}"]
    parts += ["--quick"] if options.quick else []
    return " ".join(["python benchmarks/flatness.py", *parts])


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog=f"Peers: pip install {SAM_PACKAGE}; pip install {CURVLINOPS_PACKAGES}",
    )
    parser.add_argument("--rounds", type=int, default=10, help="rounds of the autoencoder")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="small and short: does it run?")
    parser.add_argument("--out", type=Path, help="Markdown file; JSON goes beside it")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
