"""Block 2 of the study: which layer of a small network, and against which controls.

``python benchmarks/study/mlps.py --data ROOT --work WORK --out docs/results``

ROOT holds the folders fashionmnist and cifar10 in their original formats. Every cell that is done
is kept in WORK: the same command resumes where it stopped, and writes the page from what there is.
``--only fashionmnist,0.2,300`` does one condition, in seven minutes of one core.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from _cells import (
    MARGIN,
    Difference,
    Row,
    Rows,
    average,
    column,
    decades,
    difference,
    family,
    loss_difference,
    machine,
    p_words,
    published,
    read_csv,
    table,
    to_csv,
    tuned,
)
from _data import Drawn, noisy, small_images, splits
from _networks import Form, Recipe, scores, train, traits

from famseg.files import write_atomically
from famseg.messages import counted

DATA = ("fashionmnist", "cifar10")
NOISE = (0.2, 0.0, 0.4)
SIZES = (300, 1000)
SEEDS = range(30)
TUNING = range(1000, 1006)  # other draws of the data: what is tuned on is not what is tested on
VALIDATION = 2000
TEST = 10_000
FULL = ("fashionmnist", 0.2, 300)  # all methods; elsewhere those of BRIEF
BRIEF = (
    *("none", "FAM first", "noise first", "FAM head", "FAM term I head", "noise head"),
    *("decay head", "decay first", "decay all", "SAM"),
)
LAYERS = {"first": 0, "second": 1, "head": -1}
FORMS: tuple[Form, ...] = ("full", "term I", "term II", "noise")


@dataclass(frozen=True)
class Method:
    """What is trained with a strength that is tuned.

    Attributes:
        make: Returns the recipe of a strength.
        grid: Strengths, four decades; one where there is nothing to tune.
    """

    make: Callable[[float], Recipe]
    grid: Sequence[float]


def _penalty(layer: int, form: Form) -> Callable[[float], Recipe]:
    return lambda value: Recipe(penalty=(layer, form, value))


def methods() -> dict[str, Method]:
    """Return all methods that are tuned by themselves, by name."""
    found = {"none": Method(lambda _: Recipe(), [0.0])}
    for (name, layer), form in itertools.product(LAYERS.items(), FORMS):
        title = {"full": "FAM", "noise": "noise"}.get(form, f"FAM {form}")
        found[f"{title} {name}"] = Method(_penalty(layer, form), decades(10))
    found["FAM head, negative"] = Method(_penalty(-1, "full"), [-x for x in decades(0.1)])
    for name in ("head", "first"):
        found[f"decay {name}"] = Method(
            lambda value, layer=LAYERS[name]: Recipe(decay={layer: value}), decades(10, 5)
        )
    found["decay all"] = Method(lambda v: Recipe(decay={0: v, 1: v, 2: v}), decades(1))
    found["SAM"] = Method(lambda value: Recipe(sam=value), decades(10))
    return found


def combinations(best: Mapping[str, float]) -> dict[str, Recipe]:
    """Return combinations, each part with the strength that is best by itself."""
    first, sam = (0, "full", best["FAM first"]), best["SAM"]
    return {
        "FAM first + SAM": Recipe(penalty=first, sam=sam),
        "FAM first + decay head": Recipe(penalty=first, decay={-1: best["decay head"]}),
        "FAM first + decay all": Recipe(
            penalty=first, decay=dict.fromkeys(range(3), best["decay all"])
        ),
    }


CONTRASTS = (
    ("FAM head", "decay head"),
    ("FAM head", "noise head"),
    ("FAM term I head", "decay head"),
    ("FAM first", "decay first"),
    ("FAM first", "noise first"),
    ("FAM first", "FAM head"),
    ("FAM first", "decay all"),
    ("FAM first", "SAM"),
    ("FAM second", "decay all"),
    ("FAM first + SAM", "SAM"),
    ("FAM first + decay all", "decay all"),
)


@dataclass(frozen=True)
class Condition:
    """Data, share of noisy labels, number of training images."""

    data: str
    noise: float
    n: int

    @property
    def key(self) -> dict[str, object]:
        """Its columns."""
        return {"data": self.data, "noise": self.noise, "n": self.n}


@cache
def _pool(name: str, root: Path) -> Drawn:
    return small_images(name, root)


def run(
    condition: Condition, root: Path, recipe: Recipe, seeds: Sequence[int], *, test: bool
) -> list[Row]:
    """Train a network for each seed, and score it on validation, or once on the test set."""
    pool = _pool(condition.data, root)
    drawn, held = splits(len(pool.x), (condition.n, VALIDATION), seeds)
    x, y = pool.x[drawn], pool.y[drawn]
    y = torch.stack(
        [noisy(of, condition.noise, pool.classes, s) for of, s in zip(y, seeds, strict=True)]
    )
    layers = train(x, y, pool.classes, recipe, seeds)
    if test:
        found = {f"test_{k}": v for k, v in scores(layers, *_first(pool)).items()}
        own = scores(layers, x, y)
        found |= {f"train_{name}": own[name] for name in ("accuracy", "loss", "confidence")}
        found |= traits(layers, x, y)
    else:
        labels = torch.stack(
            [
                noisy(pool.y[of], condition.noise, pool.classes, 10_000 + s)
                for of, s in zip(held, seeds, strict=True)
            ]
        )
        own = scores(layers, pool.x[held], labels)
        found = {f"validation_{name}": own[name] for name in ("accuracy", "loss")}
    return [
        {"seed": seed, **{name: float(values[i]) for name, values in found.items()}}
        for i, seed in enumerate(seeds)
    ]


def _first(pool: Drawn) -> tuple[torch.Tensor, torch.Tensor]:
    return pool.test_x[:TEST], pool.test_y[:TEST]


def condition_rows(condition: Condition, root: Path, rows: Rows) -> list[Row]:
    """Tune every method on validation, then train it once more and test it; return the rows."""
    best, found = {}, []
    full = (condition.data, condition.noise, condition.n) == FULL
    for name, method in methods().items():
        if not full and name not in BRIEF:
            continue

        def validated(value: float, name: str = name, method: Method = method) -> float:
            cell = {**condition.key, "method": name, "strength": value, "part": "validation"}
            done = rows.of(
                cell, lambda: run(condition, root, method.make(value), TUNING, test=False)
            )
            values = column(done, "validation_accuracy")
            return sum(values) / len(values)

        best[name], end = tuned(method.grid, validated)
        found += _tested(condition, root, rows, name, method.make(best[name]), best[name], end)
    for name, recipe in combinations(best).items() if full else ():
        found += _tested(condition, root, rows, name, recipe, 0.0, False)
    return found


def _tested(
    condition: Condition,
    root: Path,
    rows: Rows,
    name: str,
    recipe: Recipe,
    strength: float,
    end: bool,
) -> list[Row]:
    cell = {**condition.key, "method": name, "strength": strength, "part": "test"}
    done = rows.of(cell, lambda: run(condition, root, recipe, list(SEEDS), test=True))
    values = column(done, "test_accuracy")
    print(f"{condition} {name} {strength:g}{' (end)' * end}: {average(values)}", flush=True)
    return [{**row, "end": int(end)} for row in done]


def section(condition: Condition, rows: Sequence[Row]) -> tuple[str, dict[str, Difference]]:
    """Return the text of a condition, and its contrasts."""
    by = {name: [r for r in rows if r["method"] == name] for name in _names(rows)}
    accuracy = {name: column(of, "test_accuracy") for name, of in by.items()}
    plain = family(
        {name: difference(of, accuracy["none"]) for name, of in accuracy.items() if name != "none"}
    )
    contrasts = family(
        {
            f"{one} - {two}": difference(accuracy[one], accuracy[two])
            for one, two in CONTRASTS
            if one in accuracy and two in accuracy
        }
    )
    lines = []
    for name, of in by.items():
        strength = float(of[0]["strength"])
        shown = "" if name == "none" or "+" in name else f"{strength:.3g}"
        shown += " (end)" if of[0]["end"] else ""
        against = plain.get(name)
        loss = loss_difference(column(of, "test_loss"), column(by["none"], "test_loss"))
        lines.append(
            [
                name,
                shown,
                average(accuracy[name]),
                str(against) if against else "",
                p_words(against.p_holm) if against else "",
                against.verdict if against else "",
                loss if against else "",
                *(_mean(of, key) for key in ("test_ece", "kappa_head", "kappa_first")),
            ]
        )
    title = f"{condition.data}, {condition.noise:.0%} noisy labels, n = {condition.n}"
    head = ["method", "strength", "test accuracy", "difference to none [95 %]", "p (Holm)"]
    head += ["verdict", "test loss - none [95 %]", "ECE", "kappa head", "kappa first"]
    both = [[name, str(d), p_words(d.p_holm), d.verdict] for name, d in contrasts.items()]
    text = f"## {title.replace('%', ' %')}\n\n{table(head, lines)}\n\n"
    text += table(["contrast", "difference in accuracy [95 %]", "p (Holm)", "verdict"], both)
    return text, contrasts | {f"{name} - none": each for name, each in plain.items()}


def _names(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(str(row["method"]) for row in rows))


def _mean(rows: Sequence[Row], name: str) -> str:
    values = column(rows, name)
    return f"{sum(values) / len(values):.3g}"


WORDS = ("FAM head - decay head", "FAM head - none", "FAM first - none", "FAM first - noise first")
WORDS += ("FAM first - decay first", "FAM first - SAM", "FAM term I head - decay head")


def page(done: Mapping[Condition, list[Row]], missing: Sequence[Condition]) -> str:
    """Return the page of the block."""
    sections = {condition: section(condition, rows) for condition, rows in done.items()}
    lines = ["# Which layer of a small network", "", _verdict(sections), "", INTRODUCTION, ""]
    if missing:
        names = "; ".join(f"{c.data}, {c.noise:g}, n = {c.n}" for c in missing)
        lines += [f"Not run yet: {names}.", ""]
    lines += [machine(), "", *(f"{text}\n" for text, _ in sections.values())]
    return "\n".join(lines)


def _verdict(sections: Mapping[Condition, tuple[str, Mapping[str, Difference]]]) -> str:
    """Return, for each question, in how many conditions which answer was found."""
    lines = []
    for name in WORDS:
        found = {c: each[name] for c, (_, each) in sections.items() if name in each}
        if not found:
            continue
        kinds = [each.verdict for each in found.values()]
        counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
        values = "; ".join(
            f"{c.data} {c.noise:.0%} n={c.n}: {each}".replace("%", " %")
            for c, each in found.items()
        )
        lines.append(f"- **{name}**, {counted(len(found), 'condition')}: {counts}. {values}.")
    return "\n".join(lines)


INTRODUCTION = f"""Written by `benchmarks/study/mlps.py`. A network with hidden layers of 128 \
and 64 ReLUs on FashionMNIST at 14 x 14 or CIFAR-10 at 8 x 8; SGD 0.05 with momentum 0.9, \
cosine, 100 epochs, batches of 50, weight decay 5e-4 in all layers unless a method changes it. A \
seed draws the training images, their noisy labels, the initial weights and the order of the \
batches, the same for all methods. lambda is for kappa over the number of inputs of the layer.

Each strength is tuned over four decades, in whole and then in half decades, by the mean accuracy \
on {VALIDATION} validation images with labels as noisy, over {len(TUNING)} seeds of their own; \
"(end)" marks a best strength at an end of the range. Then {len(SEEDS)} new seeds are trained with \
it, and scored once on the test set (10,000 images of FashionMNIST, 2,000 of CIFAR-10). All \
methods were trained in the first condition, and those that it left open in the others. Intervals: \
Student's t over seeds; p: permutation test, by Holm for all rows of a table; equivalent: two \
one-sided t tests at 5 % within {MARGIN:g}. Combinations have the strengths of their parts. Raw \
rows: [study-mlps.csv](study-mlps.csv), one for each seed, and those of \
[tuning](study-mlps-tuning.csv)."""


def main() -> None:
    """Run what is missing, and write page and rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", help="data,noise,n")
    options = parser.parse_args()
    torch.set_num_threads(1)
    every = [Condition(*each) for each in _conditions()]
    earlier = published(options.out / "study-mlps.csv")
    done = {
        Condition(*key): [row for of in by.values() for row in of] for key, by in earlier.items()
    }
    rows = Rows(options.work / "mlps")
    for condition in every:
        name = f"{condition.data},{condition.noise:g},{condition.n}"
        marker = options.work / "mlps" / f"{name}.done"
        if options.only not in (None, name) and not marker.is_file():
            continue
        done[condition] = condition_rows(condition, options.data, rows)
        marker.touch()
        missing = [each for each in every if each not in done]
        write_atomically(options.out / "study-mlps.md", page(done, missing).encode())
        raw = [row for of in done.values() for row in of]
        write_atomically(options.out / "study-mlps.csv", to_csv(raw).encode())
        tuning = sorted(rows.folder.glob("*part=validation.csv"))
        scored = [row for path in tuning for row in read_csv(path)]
        write_atomically(options.out / "study-mlps-tuning.csv", to_csv(scored).encode())


def _conditions() -> list[tuple[str, float, int]]:
    """Return all conditions, those that are quick and tell most first."""
    found = itertools.product(SIZES, NOISE, DATA)
    return [(data, noise, n) for n, noise, data in found]


if __name__ == "__main__":
    main()
