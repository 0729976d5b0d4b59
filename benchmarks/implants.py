"""Implants of real heads from the predicted outline, compared with methods without a network.

    python benchmarks/implants.py --out benchmarks/results/implants.md
    python benchmarks/implants.py --model builtin --model runs/fine-lambda0-seed0 --out ...

A defect of each class is cut into real heads (128^3, 1.75 mm; `FAMSEG_REAL_DATA`). *famseg* is what
`famseg reconstruct` does up to the fit: bone, frame, openings, coarse network, refinement, with
nothing but the defective skull. *famseg, fitted* is the implant that the command writes, without
gap and least thickness; `--fitted` adds it, at twice the time. The other methods have to be told
where the implant belongs: the outline that famseg predicts, or, as an oracle, the region that was
removed. Mean and nearest skull are those of the phantoms that the built-in network learned from.
All that a method adds to the skull counts, wherever it is; a case without an implant has failed and
counts with DSC 0 and the diagonal of the volume as distance.

No setting was chosen on the heads of the first table. It was made five times so far. Before the
fourth, its worst case was looked at: the network had filled thin bone of the base that the scan
does not show, far from the defect. What followed from it, a bound of the angle, was set on no case.
The fifth is the first with a fine-tuned network, and all its rows are of version 330b88d.
Version 63bce61, whose fit and refinement are faster, gave the same values on another machine: all
120 rows of *famseg* with the built-in network and of the thin plates agree in every digit.

*runs/phantoms_and_heads-lambda0-seed0* is the built-in network trained on, on real heads and
phantoms: three heads of the second table and one more (seg3d_skull_craniotomy, its flap in place)
with eight phantoms, at 64^3; the fourth head of the second table, elgabrielc_sample, chose the
epoch, the threshold and the confidence. For this model the second table is no test; the first is.

Its training: configs/implant_folder.yaml with initial=builtin, phantoms=8, draws=16,
training.epochs=24, optimizer.learning_rate=5e-4, data.threshold=0.4 and
data.include=[existing_defect,cut_vault]; 27 minutes of less than half a core.

`--plates` leaves out the baselines but the thin plate.

Rows go to a CSV file, one a case and method; what is there is not computed again. A case takes
about ten processor seconds.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from _measure import environment
from numpy.typing import NDArray
from plates import SPACING, Case, Mask, Row, heads, scored, summary

from famseg.config import load
from famseg.datasets import WHERES, RegionDefect, inject, mean_skull_mask
from famseg.evaluation import predicted_outline
from famseg.files import write_atomically
from famseg.messages import InputError
from famseg.preparation import Scan
from famseg.preparation.steps import bone_field
from famseg.reconstruction import (
    BONE_SHARE,
    CoarseNetwork,
    Frame,
    Options,
    Skull,
    find_openings,
    fit_vault,
    hold_against,
    load_network,
    mirror,
    nearest_baseline,
    other_side,
    place_frame,
    read_skull,
    reconstruct,
    refine,
    thin_plate,
    without_lone,
)
from famseg.volumes import Volume

# Settings of the reconstruction were chosen on the heads at even places, on one draw of each class.
GROUPS = ("heads that settings were chosen on", "heads that chose nothing")
Method = Callable[[Mask], Mask]


def cases(draws: int, chosen: tuple[str, ...]) -> Iterator[tuple[int, Case]]:
    """Yield draws of one defect of each class in each whole head, and which draw it is."""
    for number, (_, name, head, affine) in enumerate(heads(0)):
        if chosen and name not in chosen:
            continue
        for draw in range(draws):
            for k, where in enumerate(WHERES):
                rng = np.random.default_rng([7, number, k, *([draw] if draw else [])])
                try:
                    holed, region = inject(head, RegionDefect(where), SPACING, rng)
                except InputError:
                    continue
                skull, implant = holed > 0, (head > 0) & ~(holed > 0)
                group = GROUPS[number % 2]
                yield draw, Case(group, name, number, where, skull, region, implant, affine)


def completed(case: Case, network: CoarseNetwork) -> Mask:
    """Return the implant before it is fitted, empty if the skull is refused."""
    try:
        skull = read_skull(_scan(case), Options().settings())
        vault = fit_vault(skull.field)
        frame = place_frame(vault, size=network.size, spacing_mm=network.spacing_mm)
        seen = frame.shares(skull.field) > BONE_SHARE
        openings = find_openings(seen, frame, vault)
        if not openings.total_cm2:
            return np.zeros_like(case.skull)
        other = other_side(seen, frame)
        probability = without_lone(
            network.predict(seen), seen, openings, frame, network.threshold, other
        )
        checked = hold_against(probability, openings, frame, network.threshold)
        coarse = _on_grid(frame, checked.probability, skull)
        refined = refine(
            skull.mask,
            skull.affine,
            coarse,
            threshold=network.threshold,
            other=other,
        )
    except InputError:
        return np.zeros_like(case.skull)
    return np.asarray(skull.to_scan(refined.implant) & ~case.skull)


def fitted(case: Case, network: CoarseNetwork) -> Mask:
    """Return the implant that the command writes, empty if the skull is refused."""
    options = Options(gap_mm=0.0, min_thickness_mm=0.0)
    try:
        return reconstruct(_scan(case), network, options).implant > 0
    except InputError:
        return np.zeros_like(case.skull)


def _scan(case: Case) -> Scan:
    return Scan(Volume(case.skull.astype(np.uint8), case.affine), "mask")


def _on_grid(frame: Frame, values: NDArray[np.float32], skull: Skull) -> NDArray[np.float32]:
    x, y, z = skull.mask.shape
    return frame.to_grid(values, skull.affine, (x, y, z))


def plate_across(case: Case, outline: Mask) -> Mask:
    """Return the implant without a network: a thin plate across an outline."""
    return thin_plate(case.skull, outline, case.affine)


class Baselines:
    """Methods that are told the outline, on the grid of a case."""

    def __init__(self) -> None:
        _, config = load("implant", [])
        skulls = config.data.build(config.data.seed).train
        self._mean = mean_skull_mask(skulls).astype(np.float32)
        self._nearest = nearest_baseline([skull.mask for skull in skulls])
        self._size, self._spacing_mm = config.data.size, config.data.spacing_mm

    def of(self, case: Case) -> dict[str, Method]:
        """Return each method as a function of the outline; what is slow is done once."""
        field = bone_field(case.skull, case.affine)
        frame = place_frame(fit_vault(field), size=self._size, spacing_mm=self._spacing_mm)
        seen = frame.shares(field) > BONE_SHARE
        other = mirror(case.skull, case.affine)
        mean = self._full(self._mean, frame, case)

        def nearest(outline: Mask) -> Mask:
            inside = frame.shares(bone_field(outline, case.affine)) > 0
            found = self._nearest(seen, inside, frame.affine)
            return self._full(found.astype(np.float32), frame, case)

        return {
            "mean skull": lambda outline: mean,
            "nearest skull": nearest,
            "mirror": lambda outline: other,
            "thin plate": partial(plate_across, case),
        }

    def _full(self, values: NDArray[np.float32], frame: Frame, case: Case) -> Mask:
        x, y, z = case.skull.shape
        return frame.to_grid(values, case.affine, (x, y, z)) > 0.5


def measured(
    case: Case, network: CoarseNetwork, baselines: Baselines | None, *, fit: bool
) -> list[Row]:
    """Return the rows of all methods on a case; without baselines of famseg and thin plates."""
    began = time.process_time()
    implant = completed(case, network)
    rows = [scored(case, "famseg", implant, time.process_time() - began)]
    if fit:
        began = time.process_time()
        made = fitted(case, network)
        rows.append(scored(case, "famseg, fitted", made, time.process_time() - began))
    predicted = predicted_outline(case.skull | implant, case.skull)
    methods: dict[str, Method] = {"thin plate": partial(plate_across, case)}
    if baselines is not None:
        methods = baselines.of(case)
    for name, method in methods.items():
        for told, outline in (("predicted outline", predicted), ("oracle", case.region)):
            began = time.process_time()
            found = np.zeros_like(outline)
            if outline.any():
                found = method(outline) & outline & ~case.skull
            rows.append(scored(case, f"{name}, {told}", found, time.process_time() - began))
    return rows


class Table:
    """The rows in a CSV file, which grows case by case."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._head = ("model", "draw", *Row._fields)
        self._rows: list[dict[str, str]] = []
        if path.is_file():
            with path.open(newline="") as stream:
                self._rows = list(csv.DictReader(stream))

    def has(self, model: str, draw: int, case: Case) -> bool:
        """Return whether a case is there."""
        key = (model, str(draw), case.head, case.where)
        return any((r["model"], r["draw"], r["head"], r["where"]) == key for r in self._rows)

    def add(self, model: str, draw: int, rows: list[Row]) -> None:
        """Add the rows of a case and write the file."""
        self._rows += [
            {"model": model, "draw": str(draw)} | {k: str(v) for k, v in row._asdict().items()}
            for row in rows
        ]
        with self._path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, self._head, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._rows)

    def of(self, model: str) -> list[Row]:
        """Return the rows of a model."""
        return [_row(row) for row in self._rows if row["model"] == model]

    @property
    def models(self) -> list[str]:
        """The models, in order."""
        return list(dict.fromkeys(row["model"] for row in self._rows))


def _row(row: dict[str, str]) -> Row:
    about = (row["group"], row["head"], row["where"], row["method"])
    numbers = [float(row[key]) for key in ("dsc", "bdsc", "hd95_mm", "seconds")]
    return Row(*about, *numbers, row["failed"] == "True")


def page(table: Table) -> str:
    """Return the page."""
    parts = []
    for model in table.models:
        found = table.of(model)
        for group in reversed(GROUPS):
            own = [row for row in found if row.group == group]
            if own:
                names = ", ".join(dict.fromkeys(row.head for row in own))
                parts.append(f"## {model}: {group}\n\n{names}.\n\n{summary(own, group)}")
    about = environment("cpu", 1, ["numpy", "scipy", "torch", "SimpleITK"])
    lines = "\n".join(f"- {name}: {value}" for name, value in about.items())
    text = (__doc__ or "").partition("\n\nA defect")[2]
    return f"""# Implants of real heads

Written by `python benchmarks/implants.py`:

{lines}

A defect{text.rstrip()}

Mean ± standard deviation over cases; HD95 is `hd95_mm`, see [metrics](../../docs/metrics.md). The
processor time of a baseline is without what both of its rows share, such as the registration of
the mirror image.

{(chr(10) * 2).join(parts)}
"""


def main() -> None:
    """Measure what is missing and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", action="append", help="as of famseg reconstruct; several times")
    parser.add_argument("--draws", type=int, default=1, help="defects of each class per head")
    parser.add_argument("--heads", nargs="*", default=(), help="names; all by default")
    parser.add_argument("--fitted", action="store_true", help="also fit, as the command does")
    parser.add_argument("--plates", action="store_true", help="no baselines but the thin plate")
    parser.add_argument("--rows", type=Path, default=Path("implants.csv"), help="CSV, resumed")
    parser.add_argument("--out", type=Path, help="Markdown file")
    chosen = parser.parse_args()
    found = Table(chosen.rows)
    baselines: Baselines | None = None
    for model in chosen.model or ["builtin"]:
        network = load_network(model)
        for draw, case in cases(chosen.draws, tuple(chosen.heads)):
            if found.has(model, draw, case):
                continue
            if not chosen.plates:
                baselines = baselines or Baselines()
            found.add(model, draw, measured(case, network, baselines, fit=chosen.fitted))
            print(model, case.head, case.where, draw, flush=True)
    if chosen.out is None:
        print(page(found))
    else:
        write_atomically(chosen.out, page(found).encode())


if __name__ == "__main__":
    main()
