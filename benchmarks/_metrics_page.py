"""The page that ``metrics.py`` writes: time and memory by pair, errors by shape, targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from _measure import Spread, table
from _metrics_runs import Run
from _metrics_scorers import MONAI, OURS

MIB = 2**20
# Compared with MONAI's HD95: speedup at 256^3 and elsewhere, and share of its memory.
FAST_GRID, FAST, ANYWHERE, MEMORY = "256^3", 3.0, 1.0, 1 / 3
# Tolerance in mm for rounding and different area tables.
SAME_MM = 2e-3
DISTANCES = ("HD", "HD95", "ASSD")
_WORDS = {True: "held", False: "missed", None: "not known"}
COLUMNS = ("HD", "HD95", "HD95 directed", "HD95 pooled", "ASSD")
# Libraries with the same definitions, and the names that they use.
SAME = {
    "HD": ("MONAI", "HD"),
    "HD95": ("surface-distance", "HD95"),
    "HD95 directed": ("MONAI", "HD95"),
    "HD95 pooled": ("medpy", "HD95"),
    "ASSD": ("surface-distance", "ASSD"),
}


@dataclass(frozen=True)
class Row:
    """A contestant on a pair.

    Attributes:
        points: Number of border voxels of the prediction.
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
        """Median of the processor seconds."""
        return median(run.cpu for run in self.runs)

    @property
    def peak(self) -> float:
        """Median of the peaks."""
        return median(run.peak for run in self.runs)

    @property
    def ended(self) -> bool:
        """Whether each run completed."""
        return all(run.ended for run in self.runs)


@dataclass(frozen=True)
class Error:
    """Deviation of a contestant from an analytic value, in mm."""

    shape: str
    spacing: str
    name: str
    errors: dict[str, float]


@dataclass(frozen=True)
class Verdict:
    """Whether a target was met.

    Attributes:
        target: The target.
        held: Whether it was met; None if the other contestant was stopped too early to tell.
        seen: The case and the value.
    """

    target: str
    held: bool | None
    seen: str


def verdicts(rows: Sequence[Row], errors: Sequence[Error]) -> list[Verdict]:
    """Compare results with the targets: time and memory for each pair, errors for each distance."""
    found = []
    for ours, monai in _beside(rows):
        where, ratio, share = (
            f"{ours.grid} {ours.kind}",
            monai.cpu / ours.cpu,
            ours.peak / monai.peak,
        )
        wanted = FAST if ours.grid == FAST_GRID else ANYWHERE
        # A stopped run would have taken more time and memory.
        unknown = False if monai.ended else None
        least, most = ("", "") if monai.ended else ("at least ", "at most ")
        found += [
            Verdict(
                f"{wanted:g} x faster: {where}", ratio >= wanted or unknown, f"{least}{ratio:.1f} x"
            ),
            Verdict(
                f"a third of the memory: {where}", share <= MEMORY or unknown, f"{most}{share:.3f}"
            ),
        ]
    found += [_by_definition(errors, column) for column in COLUMNS if _present(errors, column)]
    return [*found, *(_nearest(errors, distance) for distance in DISTANCES)]


def _present(errors: Sequence[Error], column: str) -> bool:
    return any(one.name == SAME[column][0] for one in errors)


def _by_definition(errors: Sequence[Error], column: str) -> Verdict:
    """Compare with the contestant that has the same definition."""
    name, theirs = SAME[column]
    groups = _by_shape(errors)
    farther = [
        abs(group[0].errors[column])
        - abs(next(one.errors[theirs] for one in group if one.name == name))
        for group in groups
    ]
    return Verdict(
        f"as near to the truth as {name} by the same definition: {column}",
        bool(max(farther) <= SAME_MM),
        f"at most {max(max(farther), 0.0):.4f} mm farther on {len(groups)} pairs of shapes",
    )


def _nearest(errors: Sequence[Error], distance: str) -> Verdict:
    """Compare with the closest of all, whatever its definition."""
    groups, farther = _by_shape(errors), []
    for mine, *others in groups:
        sizes = {one.name: abs(one.errors[distance]) for one in others if distance in one.errors}
        best = min(sizes, key=lambda name: sizes[name], default=None)
        own = abs(mine.errors[distance])
        if best is not None and own > sizes[best] + SAME_MM:
            farther.append(
                f"{mine.shape}, {mine.spacing}: {own:.3f} mm off, {best} {sizes[best]:.3f}"
            )
    return Verdict(
        f"nearest to the truth, whatever the definition: {distance}",
        not farther,
        "; ".join([f"{len(groups) - len(farther)} of {len(groups)} pairs of shapes", *farther]),
    )


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
    missed = [one for one in held if one.held is False]
    known = [one for one in held if one.held is not None]
    return f"""# Boundary metrics beside other libraries

Written in one run:

{lines}

`{OURS}` is Dice and `surface_scores`: HD, HD95 in three ways, ASSD and NSD, in mm and in voxels.
The others compute one distance in mm. Each run is a process of its own with one thread that has
loaded its libraries and holds the masks; contestants take turns in an order drawn anew for each
round. Times are median (quartiles, runs). Ratios are those of processor time, which a busy
neighbor changes less than wall time, of a contestant to MONAI's: above 1 it is faster. Peak
memory is what comes on top of masks and libraries. `>` says that a run was ended before it was
through: its time and memory are at least so much.

The skull is a phantom. *good*: its surface one voxel out or in by places; *shifted*: moved by 5 %
of the grid; *noise*: half of all voxels. Voxels of {FAST_GRID} and smaller grids are cubic; the
largest grid has 1.0 x 0.45 x 0.45 mm.

## Targets

{len(known) - len(missed)} of {len(known)} held{_unknown(len(held) - len(known))}. Missed:
{_missed(missed)}

{_targets(held)}

## Time and memory

{_times(rows)}

## Distance from the truth

Millimeters that a contestant is above (+) or below (-) the distance of the shapes themselves, which
is by area. A mask knows a surface to about half a voxel, and each definition takes that in its own
way. HD95 and ASSD here are by area over elements as those of surface-distance, HD95 directed and
pooled count border voxels as MONAI and medpy do: by the same definition all give the same values.

Elements lie on the corners of voxels, to either side of an oblique surface, and the nearest one is
on the near side: ASSD comes out up to half a voxel short, and so does the HD95 of moved spheres.
Border voxels lie inside their surface: of solids they do so alike, which takes part of the error
back; of plates such as bone they lie nearer to each other than their surfaces or farther away, and
ASSD errs to either side. They also count thin and thick faces alike, which costs much where voxels
are not cubic.

{_errors(errors)}
"""


def _beside(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Return famseg's and MONAI's rows for each pair."""
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


def _unknown(count: int) -> str:
    return f", {count} not known, as MONAI was ended" if count else ""


def _targets(held: Sequence[Verdict]) -> str:
    return table(
        ["target", "", "seen"],
        [[one.target, _WORDS[one.held], one.seen] for one in held],
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
                _ratio(other.cpu / row.cpu, row, other, " x"),
                f"{more}{row.peak / MIB:.0f}",
                _ratio(row.peak / other.peak, other, row, ""),
            ]
        )
    head = ["grid", "prediction", "border voxels", "contestant", "wall, s", "processor, s"]
    return table([*head, "times MONAI's speed", "peak MiB", "share of MONAI's"], lines)


def _ratio(value: float, below: Row, above: Row, unit: str) -> str:
    """Format a ratio of values that may be lower bounds."""
    if below is above:
        return f"{value:.2f}{unit}"
    if not below.ended and not above.ended:
        return "?"
    sign = "" if below.ended and above.ended else "< " if not below.ended else "> "
    return f"{sign}{value:.2f}{unit}"


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
