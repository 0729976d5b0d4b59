"""Relative flatness in MONAI's SupervisedTrainer: a segmentation network for small volumes.

python docs/examples/monai_trainer.py
"""

from __future__ import annotations

import torch
from monai.engines import SupervisedTrainer
from monai.losses import DiceLoss
from monai.networks.nets import UNet
from monai.utils import set_determinism
from torch import Tensor, nn
from torch.utils.data import DataLoader

from famseg.adapters.monai import FAMStep
from famseg.flatness import FAM


def balls(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return noisy volumes with a ball in each and the balls, both of shape (n, 1, 16, 16, 16)."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.stack(torch.meshgrid(*[torch.arange(16.0)] * 3, indexing="ij"))
    center = 5 + 6 * torch.rand(n, 3, 1, 1, 1, generator=generator)
    radius = 3 + 2 * torch.rand(n, 1, 1, 1, generator=generator)
    labels = ((grid - center).norm(dim=1) < radius).float()[:, None]
    return labels + 0.7 * torch.randn(labels.shape, generator=generator), labels


def train(weight: float) -> FAM:
    """Train with a weight of the penalty; 0 is plain training."""
    set_determinism(0)
    network = UNet(3, 1, 1, channels=(8, 16), strides=(2,), norm=("group", {"num_groups": 4}))
    loss = DiceLoss(sigmoid=True)
    objective = FAM(network, layer="model.2.conv", loss=loss, weight=weight)
    images, labels = balls(24, seed=1)
    data = [{"image": x, "label": y} for x, y in zip(images, labels, strict=True)]
    SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=12,
        train_data_loader=DataLoader(data, batch_size=4, shuffle=True),
        network=network,
        optimizer=torch.optim.Adam(network.parameters(), lr=0.01),
        loss_function=loss,
        iteration_update=FAMStep(objective),
    ).run()
    return objective


def main() -> None:
    """Train with and without the penalty and compare on new volumes."""
    images, labels = balls(64, seed=2)
    for weight in (0.0, 0.0015):
        objective = train(weight)
        network: nn.Module = objective.model.eval()
        with torch.no_grad():
            inside = network(images) > 0
        accuracy = (inside == labels.bool()).float().mean()
        measured = objective.measure(images, labels)
        print(
            f"weight {weight}: accuracy {accuracy:.3f}, loss {measured.loss:.3f}, "
            f"kappa {measured.kappa:.3f} +- {measured.standard_error:.3f}"
        )


if __name__ == "__main__":
    main()
