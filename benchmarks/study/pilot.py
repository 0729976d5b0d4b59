"""The networks of block 2 once more, each alone and with famseg's own `FAM`: do they agree?

``python benchmarks/study/pilot.py --data ROOT --work WORK --out docs/results``, after `mlps.py` has
done the condition. Five seeds, with the strengths that were tuned there; two minutes of one core.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from _cells import Row, Rows, average, column, difference, machine, read_csv, table, to_csv
from _data import noisy, splits
from _networks import HIDDEN, Settings, initial, scores
from mlps import Condition, _first, _pool
from torch import nn
from torch.nn import functional as F

from famseg.files import write_atomically
from famseg.flatness import FAM

SEEDS = range(5)
# The layer, and how FAM is told.
METHODS: dict[str, tuple[str, dict[str, str]] | None] = {
    "none": None,
    "FAM head": ("4", {"estimator": "closed_form"}),
    "FAM term I head": ("4", {"estimator": "closed_form", "gradient": "weights_only"}),
    "decay head": None,
    "FAM first": ("0", {"estimator": "gauss_newton"}),
    "noise first": ("0", {"estimator": "noise"}),
}


def train(condition: Condition, root: Path, method: str, strength: float, seed: int) -> list[float]:
    """Train one network as `_networks.train` does, by famseg; return its test accuracy and loss."""
    pool, s = _pool(condition.data, root), Settings()
    (drawn,) = splits(len(pool.x), (condition.n,), [seed])
    x, y = pool.x[drawn[0]], noisy(pool.y[drawn[0]], condition.noise, pool.classes, seed)
    sizes = (x.shape[1], *HIDDEN, pool.classes)
    layers = [nn.Linear(m, d) for m, d in pairwise(sizes)]
    model = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), initial(sizes, [seed]), strict=True):
            parameter.copy_(value[0])
    told = METHODS[method]
    objective: nn.Module | None = None
    if told is not None:
        width = model[int(told[0])].in_features
        objective = FAM(
            model,
            layer=told[0],
            loss=F.cross_entropy,
            weight=strength / width,
            seed=seed,
            **told[1],
        )
    decays = [s.decay, s.decay, strength if method == "decay head" else s.decay]
    groups = [
        {"params": list(layer.parameters()), "weight_decay": decay}
        for layer, decay in zip(layers, decays, strict=True)
    ]
    optimizer = torch.optim.SGD(groups, lr=s.rate, momentum=s.momentum)
    order, step = torch.Generator().manual_seed(31 + seed), 0
    steps = s.epochs * (len(x) // s.batch)
    for _ in range(s.epochs):
        for chosen in torch.randperm(len(x), generator=order).split(s.batch)[: len(x) // s.batch]:
            for group in optimizer.param_groups:
                group["lr"] = s.rate * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.zero_grad()
            if objective is None:
                F.cross_entropy(model(x[chosen]), y[chosen]).backward()
            else:
                objective(x[chosen], y[chosen]).total.backward()
            optimizer.step()
            step += 1
    found = scores([p.detach()[None] for p in model.parameters()], *_first(pool))
    return [float(found["accuracy"]), float(found["loss"])]


def rows_of(condition: Condition, root: Path, rows: Rows, batched: Sequence[Row]) -> list[Row]:
    """Train what is missing; each row has both accuracies."""
    found = []
    for method in METHODS:
        other = {int(float(r["seed"])): r for r in batched if r["method"] == method}
        strength = float(other[0]["strength"])
        cell = {**condition.key, "method": method, "strength": strength}

        def compute(method: str = method, strength: float = strength) -> list[Row]:
            own = [train(condition, root, method, strength, seed) for seed in SEEDS]
            return [
                {"seed": seed, "accuracy": accuracy, "loss": loss}
                for seed, (accuracy, loss) in zip(SEEDS, own, strict=True)
            ]

        found += [
            {**row, "batched": other[int(float(row["seed"]))]["test_accuracy"]}
            for row in rows.of(cell, compute)
        ]
        print(cell, average([float(r["accuracy"]) for r in found[-len(SEEDS) :]]), flush=True)
    return found


def page(condition: Condition, rows: Sequence[Row]) -> str:
    """Return the page."""
    by = {name: [row for row in rows if row["method"] == name] for name in METHODS}
    base, other = (column(by["none"], name) for name in ("accuracy", "batched"))
    lines = []
    for name, of in by.items():
        own, batched = column(of, "accuracy"), column(of, "batched")
        lines.append(
            [
                *(name, f"{float(of[0]['strength']):.3g}", average(own)),
                "" if name == "none" else difference(own, base),
                "" if name == "none" else difference(batched, other),
                difference(own, batched),
            ]
        )
    head = ["method", "strength", "test accuracy by famseg", "difference to none [95 %]"]
    head += ["the same, batched", "famseg - batched [95 %]"]
    title = f"{condition.data}, {condition.noise:.0%} noisy labels, n = {condition.n}"
    text = (
        "Written by `benchmarks/study/pilot.py`: the networks of [study-mlps.md](study-mlps.md) "
        f"trained one by one with `famseg.flatness.FAM`, {len(SEEDS)} seeds, the same data, "
        "initial weights, order of batches and strengths. Probes and noise are drawn anew. "
        "Raw rows: [study-pilot.csv](study-pilot.csv). "
        f"{title}.".replace("%", " %")
    )
    title = "# The batched networks against famseg's own parts"
    return "\n".join([title, "", text, "", machine(), "", table(head, lines), ""])


def main() -> None:
    """Train what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="fashionmnist,0.2,300", help="data,noise,n")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data, noise, n = options.only.split(",")
    condition = Condition(data, float(noise), int(n))
    batched = [
        row
        for row in read_csv(options.out / "study-mlps.csv")
        if (row["data"], row["noise"], row["n"]) == (data, float(noise), float(n))
    ]
    found = rows_of(condition, options.data, Rows(options.work / "pilot"), batched)
    write_atomically(options.out / "study-pilot.md", page(condition, found).encode())
    write_atomically(options.out / "study-pilot.csv", to_csv(found).encode())


if __name__ == "__main__":
    main()
