"""The page that ``metrics.py`` writes: time and memory by pair, errors by shape, what was held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from _measure import Spread, table
from _metrics_runs import Run
from _metrics_scorers import MONAI, OURS

MIB = 2**20
# Against MONAI's HD95: how many times faster, at 256^3 and anywhere, and the share of its memory.
FAST_GRID, FAST, ANYWHERE, MEMORY = "256^3", 3.0, 1.0, 1 / 3
# What two programs round differently, in mm.
ROUNDING_MM = 1e-6
DISTANCES = ("HD", "HD95", "ASSD")
COLUMNS = ("HD", "HD95", "HD95 directed", "HD95 pooled", "ASSD")


@dataclass(frozen=True)
class Row:
    """A contestant on a pair.

    Attributes:
        points: How many border voxels the prediction has.
        runs: Its runs; none if it is missing.
    """

    grid: str
    kind: str
    points: int
    name: str
    runs: Sequence[Run]
    missing: str | None = None

    @property
    def cpu(self) -> float:
        """Median of the processor's seconds."""
        return median(run.cpu for run in self.runs)

    @property
    def peak(self) -> float:
        """Median of the peaks."""
        return median(run.peak for run in self.runs)

    @property
    def ended(self) -> bool:
        """Each run came to its end."""
        return all(run.ended for run in self.runs)


@dataclass(frozen=True)
class Error:
    """How far a contestant is from what a formula says, in mm."""

    shape: str
    spacing: str
    name: str
    errors: dict[str, float]


@dataclass(frozen=True)
class Verdict:
    """Whether a target was held.

    Attributes:
        target: What was wanted.
        held: It was.
        seen: Where, and how much.
    """

    target: str
    held: bool
    seen: str


def verdicts(rows: Sequence[Row], errors: Sequence[Error]) -> list[Verdict]:
    """Hold the numbers against the targets, pair by pair and shape by shape."""
    found = []
    for ours, monai in _beside(rows):
        where, ratio = f"{ours.grid} {ours.kind}", monai.cpu / ours.cpu
        wanted = FAST if ours.grid == FAST_GRID else ANYWHERE
        least = "" if monai.ended else "at least "
        found.append(
            Verdict(f"{wanted:g} x faster: {where}", ratio >= wanted, f"{least}{ratio:.1f} x")
        )
        share = ours.peak / monai.peak
        most = "" if monai.ended else "at most "
        found.append(
            Verdict(f"a third of the memory: {where}", share <= MEMORY, f"{most}{share:.3f}")
        )
    for group in _by_shape(errors):
        mine, others = group[0], group[1:]
        for distance in DISTANCES:
            best = min(
                (abs(one.errors[distance]) for one in others if distance in one.errors),
                default=float("inf"),
            )
            own = abs(mine.errors[distance])
            found.append(
                Verdict(
                    f"nearest to the truth: {distance}, {mine.shape}, {mine.spacing}",
                    own <= best + ROUNDING_MM,
                    f"{own:.3f} mm off, the best other one {best:.3f} mm",
                )
            )
    return found


def page(
    surroundings: dict[str, str],
    rows: Sequence[Row],
    errors: Sequence[Error],
    held: Sequence[Verdict],
) -> str:
    """Return the whole page.

    Args:
        surroundings: Machine, versions and command.
        rows: What was measured.
        errors: What was compared with formulas.
        held: The targets.
    """
    lines = "\n".join(f"- {key}: {value}" for key, value in surroundings.items())
    missed = [one for one in held if not one.held]
    return f"""# Boundary metrics beside other libraries

Written in one run:

{lines}

`{OURS}` is Dice and `surface_scores`: HD, HD95 in three ways, ASSD and NSD, in mm and in voxels.
The others compute one distance in mm. Each run is a process of its own with one thread that has
loaded its libraries and holds the masks; contestants take turns in an order drawn anew for each
round. Times are median (quartiles, runs). Ratios are those of processor time, which a busy
neighbour changes less than wall time, of a contestant to MONAI's: above 1 it is faster. Peak
memory is what comes on top of masks and libraries. `>` says that a run was ended before it was
through.

The skull is a phantom. *good*: its surface one voxel out or in by places; *shifted*: moved by 5 %
of the grid; *noise*: half of all voxels. Voxels of {FAST_GRID} and smaller grids are cubic; the
largest grid has 1.0 x 0.45 x 0.45 mm.

## Targets

{len(held) - len(missed)} of {len(held)} held. Missed:
{_missed(missed)}

{_targets(held)}

## Time and memory

{_times(rows)}

## Distance from the truth

Millimetres that a contestant is above (+) or below (-) the distance of the shapes themselves, which
is by area. A mask knows a surface to about half a voxel. HD95 here is by area as that of
surface-distance, both with the same elements; HD95 directed and pooled count border voxels as MONAI
and medpy do and give their values. Elements lie on the corners of voxels, to either side of an
oblique surface, and the nearest one is on the near side: ASSD and HD95 of round shapes come out up
to half a voxel short. Border voxels lie inside of both surfaces alike, which takes part of that
back, but they count thin and thick faces alike, which costs more where voxels are not cubic.

{_errors(errors)}
"""


def _beside(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Return our row and MONAI's for each pair."""
    by_name = {(row.grid, row.kind, row.name): row for row in rows}
    return [
        (row, by_name[row.grid, row.kind, MONAI]) for row in rows if row.name == OURS and row.runs
    ]


def _by_shape(errors: Sequence[Error]) -> list[list[Error]]:
    groups: dict[tuple[str, str], list[Error]] = {}
    for one in errors:
        groups.setdefault((one.shape, one.spacing), []).append(one)
    return list(groups.values())


def _missed(missed: Sequence[Verdict]) -> str:
    return "\n".join(f"- {one.target}: {one.seen}" for one in missed) or "- none"


def _targets(held: Sequence[Verdict]) -> str:
    return table(
        ["target", "", "seen"],
        [[one.target, "held" if one.held else "missed", one.seen] for one in held],
    )


def _times(rows: Sequence[Row]) -> str:
    monai = {(row.grid, row.kind): row for row in rows if row.name == MONAI}
    lines: list[list[object]] = []
    for row in rows:
        start = [row.grid, row.kind, f"{row.points:,}", row.name]
        if not row.runs:
            lines.append([*start, row.missing, "", "", "", ""])
            continue
        other, more = monai[row.grid, row.kind], "" if row.ended else "> "
        lines.append(
            [
                *start,
                f"{more}{Spread.of(run.seconds for run in row.runs)}",
                f"{more}{row.cpu:.3g}",
                _ratio(other.cpu / row.cpu, row, other, "x"),
                f"{more}{row.peak / MIB:.0f}",
                _ratio(row.peak / other.peak, other, row, ""),
            ]
        )
    head = ["grid", "prediction", "border voxels", "contestant", "wall, s", "processor, s"]
    return table([*head, "times MONAI's speed", "peak MiB", "share of MONAI's"], lines)


def _ratio(value: float, below: Row, above: Row, unit: str) -> str:
    """Say a ratio whose parts may be known as at least so much alone."""
    if not below.ended and not above.ended and below is not above:
        return "?"
    sign = "" if below.ended and above.ended else "< " if not below.ended else "> "
    if unit == "":
        sign = {"< ": "< ", "> ": "> "}.get(sign, "")
    return f"{sign}{value:.2f}{' ' + unit if unit else ''}"


def _errors(errors: Sequence[Error]) -> str:
    lines = [
        [one.shape, one.spacing, one.name]
        + [f"{one.errors[name]:+.3f}" if name in one.errors else "" for name in COLUMNS]
        for one in errors
    ]
    for name in dict.fromkeys(one.name for one in errors):
        off = [one.errors for one in errors if one.name == name]
        means = [
            fmean(abs(each[column]) for each in off) if column in off[0] else None
            for column in COLUMNS
        ]
        shown = ["" if mean is None else f"{mean:.3f}" for mean in means]
        lines.append(["**mean size of the error**", "all", name, *shown])
    return table(["shapes", "voxels, mm", "contestant", *COLUMNS], lines)
