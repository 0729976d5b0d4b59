"""Monitoring of the flatness of a classifier's head during training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from famseg.evaluation.classification._evaluate import Logits
from famseg.flatness import cross_entropy_flatness, find_layer


class HeadMonitor:
    r"""Measures the last linear layer of a classifier on the same samples every time.

    kappa is exact: the mean over the samples of the closed form under plain softmax cross-entropy,
    in evaluation mode, for every objective of the training. This makes runs of all methods
    comparable, with and without penalty. ``||W||^2`` is recorded with it, because kappa falls with
    the norm of the head by itself. Costs a forward pass over the samples.

    Args:
        cases: The samples, fixed and without augmentation. Batches hold the inputs and ``label``.
        device: The device of the network.
        layer: Dotted name of the head.
        inputs: Key of the inputs in a batch.
        collate: Makes a batch of items of the data set; None for torch's default.
        batch_size: Samples per batch.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> head = nn.Linear(2, 2, bias=False)
        >>> nn.init.eye_(head.weight)
        Parameter containing:
        tensor([[1., 0.],
                [0., 1.]], requires_grad=True)
        >>> case = {"image": torch.zeros(2), "label": 0}
        >>> HeadMonitor([case], torch.device("cpu"), layer="0")(nn.Sequential(head))
        {'train/kappa': 0.0, 'train/head_norm_squared': 2.0}
    """

    def __init__(
        self,
        cases: Dataset[Mapping[str, Any]],
        device: torch.device,
        *,
        layer: str = "head",
        inputs: str = "image",
        collate: Callable[[Any], Mapping[str, Any]] | None = None,
        batch_size: int = 256,
    ) -> None:
        self.cases = cases
        self.device = device
        self.layer = layer
        self.inputs = inputs
        self.collate = collate
        self.batch_size = batch_size

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Return ``train/kappa`` and ``train/head_norm_squared`` of a network."""
        layer = find_layer(model, self.layer)
        weight = layer.weight.detach().cpu().double()
        predict = Logits(model, self.device)
        features: list[Tensor] = []

        def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            features.append(inputs[0].cpu().double())

        handle = layer.register_forward_pre_hook(keep)
        try:
            values = []
            for batch in self._batches():
                features.clear()
                logits = predict(batch[self.inputs]).double()
                labels = batch["label"].cpu()
                values.append(cross_entropy_flatness(features[0], logits, labels, weight))
        finally:
            handle.remove()
        return {
            "train/kappa": float(torch.cat(values).mean()),
            "train/head_norm_squared": float(weight.square().sum()),
        }

    def _batches(self) -> DataLoader[Mapping[str, Any]]:
        return DataLoader(
            self.cases,
            batch_size=self.batch_size,
            collate_fn=self.collate,
            generator=torch.Generator(),  # instead of the global one
        )
