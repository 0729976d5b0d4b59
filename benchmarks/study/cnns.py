"""Block 3 of the study: a CNN with batch normalization, trained to 100 % training accuracy.

``python benchmarks/study/cnns.py --data ROOT --work WORK --out docs/results``

ROOT holds the folder cifar10 in its original format. What is done is kept in WORK: the same command
resumes where it stopped, and networks whose rows are in the CSV of the page stay there. Four
core-hours in all; ``--only augmented,extra`` (0 or 1 each) does one of the four networks.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from pathlib import Path

import torch
from _cells import (
    Row,
    Rows,
    average,
    column,
    decades,
    difference,
    family,
    machine,
    p_words,
    read_csv,
    table,
    to_csv,
    tuned,
)
from _data import Drawn, _images, splits
from torch import Tensor, nn
from torch.nn import functional as F

from famseg.evaluation import calibration
from famseg.files import write_atomically
from famseg.flatness import FAM

N, VALIDATION = 500, 2000
CHANNELS = (16, 32, 32)
EPOCHS, BATCH, RATE, DECAY = 60, 50, 0.05, 5e-4
SEEDS = range(15)
TUNING = range(1000, 1003)
_BOTH = "SAM + FAM head"  # with the strengths that are best for each alone
LAYERS = {"stem": "0", "last convolution": "8", "head": "head"}


@dataclass(frozen=True)
class Network:
    """Which network and data: with augmentation, with the paper's extra layer."""

    augmented: bool
    extra: bool

    @property
    def key(self) -> dict[str, object]:
        """Its columns."""
        return {"augmented": int(self.augmented), "extra": int(self.extra)}


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        layer: Layer of the penalty or decay.
        weight: lambda of kappa / m, or the decay.
        kind: ``none``, ``full``, ``term I``, ``noise`` or ``decay``.
        sam: Radius of sharpness-aware minimization.
        decay: Weight decay of all layers.
    """

    kind: str = "none"
    layer: str = "head"
    weight: float = 0.0
    sam: float = 0.0
    decay: float = DECAY


def build(extra: bool, classes: int = 10) -> nn.Module:
    """Return the network; the head is called ``head``."""
    network = nn.Sequential()
    for place, (m, d) in enumerate(pairwise((3, *CHANNELS))):
        network.append(nn.Conv2d(m, d, 3, padding=1, bias=False)).append(nn.BatchNorm2d(d))
        network.append(nn.ReLU())
        if place < 2:
            network.append(nn.MaxPool2d(2))
    network.append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten())
    if extra:  # without a non-linearity, as in the paper
        network.append(nn.Linear(CHANNELS[-1], 64))
    network.add_module("head", nn.Linear(64 if extra else CHANNELS[-1], classes))
    return network


@cache
def _pool(root: Path) -> Drawn:
    (x, y), (test_x, test_y) = _images("cifar10", root)
    # Half as fine: sixteen pixels an edge let a CPU run the block.
    x, test_x = (F.avg_pool2d(each, 2) for each in (x, test_x))
    mean, std = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True)
    return Drawn((x - mean) / std, y, (test_x - mean) / std, test_y)


def train(network: Network, recipe: Recipe, x: Tensor, y: Tensor, seed: int) -> nn.Module:
    """Train by SGD with a cosine schedule; the seed draws weights, batches and augmentation."""
    torch.manual_seed(seed)
    model = build(network.extra)
    layer = dict(model.named_modules())[recipe.layer].weight
    objective = _objective(model, recipe, layer)
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9, weight_decay=recipe.decay)
    steps = EPOCHS * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(EPOCHS):
        model.train()
        for chosen in torch.randperm(len(x)).split(BATCH):
            xb = _augmented(x[chosen]) if network.augmented else x[chosen]
            optimizer.zero_grad()
            objective(xb, y[chosen]).backward()
            if recipe.sam:
                _sharpness_aware(model, recipe.sam, partial(objective, xb, y[chosen]), optimizer)
            optimizer.step()
            schedule.step()
    return model.eval()


def _objective(
    model: nn.Module, recipe: Recipe, weight: nn.Parameter
) -> Callable[[Tensor, Tensor], Tensor]:
    if recipe.kind in ("none", "decay"):

        def plain(x: Tensor, y: Tensor) -> Tensor:
            extra = recipe.weight * weight.square().sum() if recipe.kind == "decay" else 0.0
            return F.cross_entropy(model(x), y) + extra

        return plain
    options = {"gradient": "weights_only"} if recipe.kind == "term I" else {}
    if recipe.kind == "noise":
        options = {"estimator": "noise"}
    elif recipe.layer != "head":
        # Batch statistics tie the samples, so that no form for each sample by itself holds.
        options |= {"estimator": "hutchinson", "probe_per": "batch"}
    # The convention of the authors' code: kappa over the columns of the weight.
    scaled = recipe.weight / weight.flatten(1).shape[1]
    fam = FAM(model, layer=recipe.layer, loss=F.cross_entropy, weight=scaled, **options)
    return lambda x, y: fam(x, y).total


def _augmented(x: Tensor) -> Tensor:
    """Shift each batch by up to two pixels, and flip each image or not."""
    across, down = (int(torch.randint(-2, 3, ())) for _ in range(2))
    shifted = F.pad(x, (2, 2, 2, 2))[..., 2 + down : 18 + down, 2 + across : 18 + across]
    flip = torch.rand(len(x)) < 0.5
    return torch.where(flip[:, None, None, None], shifted.flip(3), shifted)


def _sharpness_aware(
    model: nn.Module,
    radius: float,
    objective: Callable[[], Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Replace the gradients by those at the ascent step; batch statistics move once."""
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    scale = radius / (math.sqrt(sum(float(g.square().sum()) for g in grads)) + 1e-12)
    moves = [(p, p.grad * scale) for p in model.parameters() if p.grad is not None]
    kept = {name: value.clone() for name, value in model.named_buffers()}
    with torch.no_grad():
        for p, move in moves:
            p.add_(move)
    optimizer.zero_grad()
    objective().backward()
    with torch.no_grad():
        for p, move in moves:
            p.sub_(move)
        for name, value in model.named_buffers():
            value.copy_(kept[name])


@torch.no_grad()
def scores(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Return accuracy, loss and expected calibration error."""
    logits = torch.cat([model(part) for part in x.split(500)])
    confidence, answer = logits.softmax(1).max(1)
    right = answer == y
    return {
        "accuracy": float(right.float().mean()),
        "loss": float(F.cross_entropy(logits, y)),
        "ece": calibration(confidence.numpy(), right.numpy()).ece,
    }


def methods() -> dict[str, tuple[Callable[[float], Recipe], Sequence[float]]]:
    """Return recipes by strength, and the strengths, four decades, by name."""
    found: dict[str, tuple[Callable[[float], Recipe], Sequence[float]]] = {
        "none": (lambda _: Recipe(), [0.0])
    }
    for name, layer in LAYERS.items():
        found[f"FAM {name}"] = (partial(Recipe, "full", layer), decades(10))
        found[f"noise {name}"] = (partial(Recipe, "noise", layer), decades(10))
        found[f"decay {name}"] = (partial(Recipe, "decay", layer), decades(1))
    found["FAM term I head"] = (partial(Recipe, "term I", "head"), decades(10))
    found["decay all"] = (lambda v: Recipe(decay=v), decades(0.1))
    found["SAM"] = (lambda v: Recipe(sam=v), decades(10))
    return found


def run(
    network: Network, recipe: Recipe, seeds: Sequence[int], root: Path, *, test: bool
) -> list[Row]:
    """Train a network for each seed, and score it on validation, or once on the test set."""
    pool, rows = _pool(root), []
    drawn, held = splits(len(pool.x), (N, VALIDATION), seeds)
    for place, seed in enumerate(seeds):
        x, y = pool.x[drawn[place]], pool.y[drawn[place]]
        model = train(network, recipe, x, y, seed)
        row: Row = {"seed": seed}
        if test:
            row |= {f"test_{k}": v for k, v in scores(model, pool.test_x, pool.test_y).items()}
            row |= {f"train_{k}": v for k, v in scores(model, x, y).items()}
        else:
            own = scores(model, pool.x[held[place]], pool.y[held[place]])
            row |= {"validation_accuracy": own["accuracy"]}
        rows.append(row)
    return rows


def network_rows(network: Network, root: Path, rows: Rows) -> list[Row]:
    """Tune and test all methods of a network."""
    best, found = {}, []
    for name, (make, grid) in methods().items():

        def validated(
            value: float, name: str = name, make: Callable[[float], Recipe] = make
        ) -> float:
            cell = {**network.key, "method": name, "strength": value, "part": "validation"}
            done = rows.of(cell, lambda: run(network, make(value), list(TUNING), root, test=False))
            return sum(column(done, "validation_accuracy")) / len(done)

        best[name], end = tuned(grid, validated)
        found += _tested(network, root, rows, name, make(best[name]), best[name], end)
    both = Recipe("full", "head", best["FAM head"], sam=best["SAM"])
    return found + _tested(network, root, rows, _BOTH, both, 0.0, False)


def _tested(
    network: Network,
    root: Path,
    rows: Rows,
    name: str,
    recipe: Recipe,
    strength: float,
    end: bool,
) -> list[Row]:
    cell = {**network.key, "method": name, "strength": strength, "part": "test"}
    done = rows.of(cell, lambda: run(network, recipe, list(SEEDS), root, test=True))
    print(network, name, strength, average(column(done, "test_accuracy")), flush=True)
    return [{**row, "end": int(end)} for row in done]


def published(path: Path) -> dict[Network, list[Row]]:
    """Return the rows of an earlier page by network, if any."""
    found: dict[Network, list[Row]] = {}
    for row in read_csv(path) if path.is_file() else ():
        network = Network(bool(row["augmented"]), bool(row["extra"]))
        found.setdefault(network, []).append(row)
    return found


def section(network: Network, rows: Sequence[Row]) -> str:
    """Return the text of a network."""
    names = list(dict.fromkeys(str(row["method"]) for row in rows))
    by = {name: [row for row in rows if row["method"] == name] for name in names}
    base = column(by["none"], "test_accuracy")
    plain = family(
        {
            name: difference(column(of, "test_accuracy"), base)
            for name, of in by.items()
            if name != "none"
        }
    )
    lines = []
    for name, of in by.items():
        against = plain.get(name)
        learned = column(of, "train_accuracy")
        lines.append(
            [
                name,
                "as above" if name == _BOTH else _strength(of[0]),
                f"{min(learned):.3f}",
                average(column(of, "test_accuracy")),
                str(against) if against else "",
                p_words(against.p_holm) if against else "",
                against.verdict if against else "",
                f"{sum(column(of, 'test_loss')) / len(of):.3f}",
                f"{sum(column(of, 'test_ece')) / len(of):.3f}",
            ]
        )
    title = ("with" if network.augmented else "without") + " augmentation, "
    title += ("with" if network.extra else "without") + " the extra layer"
    head = ["method", "strength", "lowest training accuracy", "test accuracy"]
    head += ["difference to none [95 %]", "p (Holm)", "verdict", "test loss", "ECE"]
    return f"## {title[0].upper()}{title[1:]}\n\n{table(head, lines)}\n"


def _strength(row: Row) -> str:
    return f"{float(row['strength']):.3g}" + " (end)" * int(float(row["end"]))


INTRODUCTION = f"""Written by `benchmarks/study/cnns.py`. Three convolutions with batch \
normalization, average pooling and a linear head on {N} images of CIFAR-10 at 16 x 16, {EPOCHS} \
epochs; each method with the strength that is best on {VALIDATION} validation images over \
{len(TUNING)} other seeds, from four decades; then {len(SEEDS)} seeds and the test set once. A row \
whose lowest training accuracy is below 1 has not fitted its data. p by Holm for all rows of a \
table. Raw rows: [study-cnns.csv](study-cnns.csv)."""


def write(done: Mapping[Network, Sequence[Row]], out: Path) -> None:
    """Write the page and its rows."""
    sections = [section(each, done[each]) for each in sorted(done, key=lambda n: str(n.key))]
    text = "\n".join(
        ["# A CNN with batch normalization", "", INTRODUCTION, "", machine(), "", *sections]
    )
    write_atomically(out / "study-cnns.md", text.encode())
    raw = [row for of in done.values() for row in of]
    write_atomically(out / "study-cnns.csv", to_csv(raw).encode())


def main() -> None:
    """Run what is missing, and write page and rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", help="augmented,extra: 0 or 1 each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, done = Rows(options.work / "cnns"), published(options.out / "study-cnns.csv")
    for augmented, extra in itertools.product((False, True), (False, True)):
        network = Network(augmented, extra)
        if network in done or options.only not in (None, f"{augmented:d},{extra:d}"):
            continue
        done[network] = network_rows(network, options.data, rows)
        write(done, options.out)


if __name__ == "__main__":
    main()
