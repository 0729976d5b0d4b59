"""Relative flatness in Lightning.

python docs/examples/lightning_module.py
"""

from __future__ import annotations

import torch
from pytorch_lightning import Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from famseg.adapters.lightning import FAMModule
from famseg.flatness import FAM


def rings(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return noisy points on three rings, shape (n, 2), and the rings they are of."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 3, (n,), generator=generator)
    angle = 2 * torch.pi * torch.rand(n, generator=generator)
    radius = 1 + targets + 0.3 * torch.randn(n, generator=generator)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1), targets


class Classifier(FAMModule):
    """All that is missing is the optimizer."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.Adam(self.parameters(), lr=0.01)


def train(weight: float) -> FAM:
    """Train with a weight of the penalty; 0 is plain training."""
    seed_everything(0, verbose=False)
    model = nn.Sequential(
        nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)
    )
    objective = FAM(model, layer="4", loss=nn.CrossEntropyLoss(), weight=weight)
    trainer = Trainer(
        max_epochs=40,
        accelerator="cpu",
        accumulate_grad_batches=2,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = DataLoader(TensorDataset(*rings(256, seed=1)), batch_size=32, shuffle=True)
    held_out = DataLoader(TensorDataset(*rings(256, seed=3)), batch_size=256)
    trainer.fit(Classifier(objective), data, held_out)
    return objective


def main() -> None:
    """Train with and without the penalty and compare on new points."""
    inputs, targets = rings(1000, seed=2)
    for weight in (0.0, 0.03):
        objective = train(weight)
        accuracy = (objective.model(inputs).argmax(1) == targets).float().mean()
        measured = objective.measure(inputs, targets)
        print(
            f"weight {weight}: accuracy {accuracy:.3f}, loss {measured.loss:.3f}, "
            f"kappa {measured.kappa:.3f} +- {measured.standard_error:.3f}"
        )


if __name__ == "__main__":
    main()
