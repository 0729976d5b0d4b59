"""The page that ``flatness.py`` writes: tables of steps, of growth and of peers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from _flatness_layers import HESSIAN_LIMIT, Growth, Peer, exponent
from _measure import Spread, table
from _memory import MIB, Memory


@dataclasses.dataclass(frozen=True)
class Row:
    """One contestant, compared with the plain step."""

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
        """Say whether the promised limits were met."""
        if self.target is None or self.ratio is None:
            return ""
        time, memory = self.target
        held = [f"time <= {time:g}: {'held' if self.ratio.median <= time else 'missed'}"]
        if self.ratio.low <= time < self.ratio.high:
            held[0] += " (within the spread)"
        if memory is not None and self.memory_ratio is not None:
            word = "held" if self.memory_ratio <= memory else "missed"
            held.append(f"memory <= {memory:g}: {word}")
        return ", ".join(held)


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
                "-" if row.cpu_ratio is None else row.cpu_ratio,
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
    """Return the exponents of growth in each of the two sizes, and the underlying costs."""
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
    slopes: list[list[object]] = [
        [name, *(_slope(found, name, varied, of) for of in (_time, _memory) for varied in "dm")]
        for name in dict.fromkeys(one.estimator for one in found)
    ]
    costs = table(["one penalized step", "d x m", "d m", "ms (fastest)", "peak MiB"], lines)
    head = ["one penalized step", "time ~ d^", "time ~ m^", "memory ~ d^", "memory ~ m^"]
    return f"{table(head, slopes)}\n\n{costs}"


def peers_table(found: Sequence[Peer]) -> str:
    """Return the results of famseg and other libraries on the same layers."""
    lines = [
        [
            one.layer,
            one.way,
            one.quantity,
            "yes" if one.differentiable else "no",
            one.missing or f"{one.value:.5g}",
            "" if one.error is None else _error(one),
            "" if one.noise is None else f"{one.noise:.2g}",
            "" if one.seconds is None else f"{one.seconds * 1e3:.3g}",
            "" if one.memory is None else f"{one.memory.later / MIB:.3g}",
        ]
        for one in found
    ]
    names = ["layer", "way", "quantity", "gradient", "value", "relative error", "noise of a draw"]
    return table([*names, "ms (fastest)", "peak MiB"], lines)


def page(
    surroundings: dict[str, str],
    resnet: Sequence[Row],
    autoencoder: Sequence[Row],
    grown: Sequence[Growth],
    beside: Sequence[Peer],
    draws: int,
) -> str:
    """Return the whole page.

    Args:
        surroundings: Machine, versions and command.
        resnet: Rows of the classifier.
        autoencoder: Rows of the autoencoder.
        grown: Costs by size.
        beside: Results of famseg and other libraries.
        draws: Number of draws of random methods.
    """
    lines = "\n".join(f"- {key}: {value}" for key, value in surroundings.items())
    return f"""# What a flatness penalty costs

Written in one run:

{lines}

Spreads are `median (lower to upper quartile, number of turns)`. Each contestant has its turn
between two plain steps, and its ratio is taken to their mean; the ratio of the plain step is taken
to its own turn before, so that its quartiles show what such a ratio can tell. Times are the mean
over whole cycles of `every`. Memory is the peak above what the process held before the first step,
the median of three processes for the autoencoder (one for the exact columns), and on a GPU what its
allocator counts; the first step of FAM looks at the network once and is reported by itself.

## ResNet18, head 10 x 512, batch 128 of 32 x 32, SGD

{steps_table(resnet)}

## Autoencoder of the paper, 64^3, batch 4, layer 64 x 8, Dice, Adam

{steps_table(autoencoder)}

## Growth with the size of the layer

A head of d classes on m features under cross-entropy, 32 samples; one penalized step with backward.
One size is varied at a time; slopes are fitted to the three largest: 1 is linear, 2 is the
d m x d m Hessian, which may take {HESSIAN_LIMIT // 2**30} GiB.

{growth_tables(grown)}

## Beside other libraries on the same layer

Values of one batch, without backward; the exact value is that of the closed form, or of the
columns. A random way shows the mean of {draws} draws, its error with the standard error, and the
standard deviation of one draw relative to the exact value; an error of many standard errors is
bias or rounding, not luck. The trace is another quantity than kappa and is compared with the exact
trace.

{peers_table(beside)}"""


def _error(one: Peer) -> str:
    if one.standard_error is None:
        return f"{one.error:.1e}"
    return f"{one.error:.1e} +- {one.standard_error:.1e}"


def _time(one: Growth) -> float | None:
    return one.seconds


def _memory(one: Growth) -> float | None:
    return one.memory.peak if one.memory else None


def _slope(
    found: Sequence[Growth], name: str, varied: str, cost: Callable[[Growth], float | None]
) -> str:
    points = [
        (float(one.d if varied == "d" else one.m), value)
        for one in found
        if (one.estimator, one.varied) == (name, varied) and (value := cost(one))
    ]
    return f"{exponent(points):.2f}" if len(points) >= 3 else "too few sizes"
