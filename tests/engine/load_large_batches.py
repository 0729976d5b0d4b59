"""Loads batches of 400 KB in a process of its own, as the process that a test starts."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from famseg.engine._batches import Batches
from famseg.engine._loader import training_loader


def main() -> None:
    """Print the sum of each batch."""
    items = [{"image": torch.full((100_000,), float(number))} for number in range(4)]
    experiment = SimpleNamespace(train=items, collate=None)
    batches = Batches(4, 1, epochs=1, seed=0)
    loader = training_loader(experiment, batches, workers=1, pin_memory=False)
    print(*sorted(int(batch["image"].sum()) for batch in loader))


if __name__ == "__main__":
    main()
