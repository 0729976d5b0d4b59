"""What a flatness penalty costs: beside a plain step, SAM and other libraries, in one run.

python benchmarks/flatness.py --out benchmarks/results/flatness.md

Contestants take turns, so that what disturbs the machine disturbs them alike; a ratio is the median
of the rounds' ratios. Peak memory is that of a process of its own. Takes about ten minutes on two
cores; ``--quick`` shows in one that everything runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from _flatness_layers import (
    CURVLINOPS_PACKAGE,
    Growth,
    Peer,
    bottleneck,
    exponent,
    growth,
    head,
    peers,
)
from _flatness_steps import SAM_PACKAGE, autoencoder_contestants, resnet_contestants
from _measure import (
    MIB,
    Contestant,
    Memory,
    Spread,
    Timing,
    environment,
    peak,
    ratio,
    say,
    table,
    timings,
)

# Ratios to the plain step that are promised: time, and peak memory.
TARGETS = {
    "FAM, closed form": (1.03, None),
    "FAM, default: mean over the steps": (1.35, 2.0),
    "FAM, noise": (1.05, None),
}
_GRID = [(10, 64), (10, 256), (10, 1024), (40, 1024), (160, 1024), (160, 4096), (640, 4096)]
_QUICK_GRID = [(4, 16), (8, 32), (16, 64)]
_HESSIAN_LIMIT = 4 * 2**30  # bytes of addresses beside those of the libraries
_LIBRARIES = 4 * 2**30


@dataclasses.dataclass(frozen=True)
class Row:
    """One contestant beside the plain step."""

    name: str
    missing: str | None = None
    first: float | None = None
    seconds: Spread | None = None
    ratio: Spread | None = None
    cpu_ratio: Spread | None = None
    memory: Memory | None = None
    memory_ratio: float | None = None
    target: tuple[float, float | None] | None = None

    def verdict(self) -> str:
        """Say whether what is promised was held."""
        if self.target is None or self.ratio is None:
            return ""
        time, memory = self.target
        held = [f"time <= {time:g}: {'held' if self.ratio.median <= time else 'missed'}"]
        if memory is not None and self.memory_ratio is not None:
            word = "held" if self.memory_ratio <= memory else "missed"
            held.append(f"memory <= {memory:g}: {word}")
        return ", ".join(held)


def compared(
    title: str, contestants: Sequence[Contestant], rounds: int, device: str, threads: int
) -> list[Row]:
    """Time and weigh contestants; the first is the plain step."""
    say(title)
    timed: dict[str, Timing] = timings(contestants, rounds, device)
    plain = timed[contestants[0].name]
    weighed: dict[str, Memory | None] = {}
    for one in contestants:
        if one.missing is None:
            say(f"  {one.name}: memory")
            weighed[one.name] = peak(one.build, device, threads)
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
                seconds=Spread.of(timing.wall.values()),
                ratio=ratio(timing.wall, plain.wall),
                cpu_ratio=ratio(timing.cpu, plain.cpu),
                memory=memory,
                memory_ratio=memory.peak / base.peak if memory and base else None,
                target=TARGETS.get(one.name),
            )
        )
    return rows


def steps_table(rows: Sequence[Row]) -> str:
    """Return the table of contestants."""
    lines: list[list[object]] = []
    for row in rows:
        if row.missing is not None:
            lines.append([row.name, row.missing, "", "", "", "", "", ""])
            continue
        memory = row.memory
        lines.append(
            [
                row.name,
                row.seconds,
                row.ratio,
                row.cpu_ratio,
                f"{row.first:.3g}",
                "-" if memory is None else f"{memory.first / MIB:.0f} / {memory.later / MIB:.0f}",
                "-" if row.memory_ratio is None else f"{row.memory_ratio:.2f}",
                row.verdict(),
            ]
        )
    return table(
        [
            "step",
            "seconds",
            "time ratio",
            "CPU time ratio",
            "first step, s",
            "peak MiB, first / later",
            "memory ratio",
            "promised",
        ],
        lines,
    )


def growth_tables(found: Sequence[Growth]) -> str:
    """Return costs by size, and the exponents that were fitted to them."""
    lines = [
        [
            one.estimator,
            f"{one.d} x {one.m}",
            one.d * one.m,
            "does not fit" if one.seconds is None else f"{one.seconds * 1e3:.3g}",
            "does not fit" if one.memory is None else f"{one.memory.peak / MIB:.3g}",
        ]
        for one in found
    ]
    fits: list[list[object]] = []
    for name in dict.fromkeys(one.estimator for one in found):
        time = [(one.d * one.m, one.seconds) for one in found if _is(one, name) and one.seconds]
        memory = [
            (one.d * one.m, one.memory.peak)
            for one in found
            if _is(one, name) and one.memory and one.memory.peak
        ]
        fits.append([name, _slope(time), _slope(memory)])
    costs = table(["one penalised step", "d x m", "d m", "ms (fastest)", "peak MiB"], lines)
    slopes = table(["one penalised step", "time ~ (d m)^", "memory ~ (d m)^"], fits)
    return f"{slopes}\n\n{costs}"


def peers_table(found: Sequence[Peer]) -> str:
    """Return what we and others find on the same layers."""
    lines = [
        [
            one.layer,
            one.way,
            one.quantity,
            "yes" if one.differentiable else "no",
            one.missing or f"{one.value:.5g}",
            "" if one.error is None else f"{one.error:.1e}",
            "" if one.seconds is None else f"{one.seconds * 1e3:.3g}",
        ]
        for one in found
    ]
    names = ["layer", "way", "quantity", "gradient", "value", "relative error", "ms (fastest)"]
    return table(names, lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything and write Markdown and JSON."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    device, quick, threads = options.device, options.quick, options.threads
    packages = ["torch", "monai", "pytorch_optimizer", "curvlinops-for-pytorch"]
    surroundings = environment(device, threads, packages)
    rounds = 2 if quick else options.rounds
    resnet = compared(
        "ResNet18", resnet_contestants(device, quick=quick), max(2, rounds // 2), device, threads
    )
    autoencoder = compared(
        "autoencoder", autoencoder_contestants(device, quick=quick), rounds, device, threads
    )
    say("growth")
    grid = _QUICK_GRID if quick else _GRID
    grown = growth(grid, device, threads, _LIBRARIES + _HESSIAN_LIMIT, say)
    say("peers")
    ours = ["closed_form", "columns", "hutchinson"]
    beside = [
        *peers("head 10 x 64, n = 128", head(10, 64, device=device), ours, hessian=True),
        *peers("head 10 x 512, n = 128", head(10, 512, device=device), ours, hessian=not quick),
        *peers(
            "bottleneck 64 x 8, 16^3",
            bottleneck(device=device),
            ["columns", "hutchinson", "finite_difference"],
            hessian=True,
        ),
    ]
    text = _page(surroundings, resnet, autoencoder, grown, beside)
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


def _page(
    surroundings: dict[str, str],
    resnet: Sequence[Row],
    autoencoder: Sequence[Row],
    grown: Sequence[Growth],
    beside: Sequence[Peer],
) -> str:
    lines = "\n".join(f"- {key}: {value}" for key, value in surroundings.items())
    return f"""# What a flatness penalty costs

Written by `python benchmarks/flatness.py --out benchmarks/results/flatness.md`, in one run:

{lines}

Spreads are `median (lower to upper quartile, number of rounds)`. Time and CPU time ratios are those
of each round to the plain step of the same round; a cell of seconds is the mean over whole cycles
of `every`. Memory is the peak above what the process held before the first step; the first step of
FAM looks at the network once and is reported by itself.

## ResNet18, head 10 x 512, batch 128 of 32 x 32, SGD

{steps_table(resnet)}

## Autoencoder of the paper, 64^3, batch 4, layer 64 x 8, Dice, Adam

{steps_table(autoencoder)}

## Growth with the size of the layer

A head of d classes on m features under cross-entropy, 32 samples; one penalised step with backward.
Slopes are fitted to the larger half of the sizes: 1 is linear in the number of weights, 2 is the
d m x d m Hessian.

{growth_tables(grown)}

## Beside other libraries on the same layer

Values of one batch, without backward; the exact value is that of the closed form, or of the
columns. An estimate of one probe is off by its own noise. The trace is another quantity than kappa
and is compared with the exact trace.

{peers_table(beside)}"""


def _is(one: Growth, name: str) -> bool:
    return one.estimator == name


def _slope(pairs: list[tuple[int, float]] | list[tuple[int, int]]) -> str:
    points = [(float(x), float(y)) for x, y in pairs]
    return f"{exponent(points):.2f}" if len(points) >= 4 else "too few sizes"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog=f"Peers: pip install {SAM_PACKAGE} {CURVLINOPS_PACKAGE}",
    )
    parser.add_argument("--rounds", type=int, default=10, help="rounds of the autoencoder")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="small and short: does it run?")
    parser.add_argument("--out", type=Path, help="Markdown file; JSON goes beside it")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
