"""Relative flatness in Lightning's ``Trainer``.

class Classifier(FAMModule):
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)

module = Classifier(FAM(network, layer="fc", loss=nn.CrossEntropyLoss(), weight=0.1))
Trainer(max_epochs=10).fit(module, loader)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from famseg.adapters._objective import named, objective_of
from famseg.flatness import FAM, FlatnessError, Terms

__all__ = ["FAMMixin", "FAMModule"]

_SHARDED = {"FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"}


class FAMMixin:
    """What a ``LightningModule`` of one's own needs to train an objective.

    It leaves everything else as it is: name it before ``LightningModule``, from
    ``pytorch_lightning`` or from ``lightning``, and keep the objective as ``self.objective``:

        class Segmenter(FAMMixin, LightningModule):
            def __init__(self, network):
                super().__init__()
                self.objective = FAM(network, layer="head", loss=loss, weight=0.1)

            def training_step(self, batch, batch_idx):
                return self.training_terms(batch["image"], batch["label"]).total

    The objective is a part of the module, so that Lightning moves it, casts it, keeps it in its
    checkpoints, and wraps it in ``DistributedDataParallel`` together with the rest.
    """

    objective: FAM

    def training_terms(self, inputs: Any, targets: object) -> Terms:  # noqa: ANN401
        """Return the terms of one batch and log them; ``total`` is what `training_step` returns.

        Which steps carry a penalty, and which probes, follows from the trainer's ``global_step``
        and the batch's number in its accumulation, so that a resumed run continues as one that was
        never stopped, and from the process.

        Logged are ``train/loss``, ``train/total`` and, on steps that carry one, ``train/penalty``,
        whose last value Lightning repeats on the steps between.

        Args:
            inputs: What the network takes: a tensor, a tuple or list of arguments, or a mapping.
            targets: Further arguments of the loss after the network's output.

        Returns:
            The terms.

        Raises:
            FlatnessError: As `famseg.flatness.FAM`.
        """
        module: Any = self
        objective = objective_of(getattr(self, "objective", None), "self.objective")
        trainer = module.trainer
        part = trainer.fit_loop.batch_idx % trainer.accumulate_grad_batches
        stream = part * trainer.world_size + trainer.global_rank
        objective.seek(trainer.global_step, stream=stream)
        terms: Terms = objective(inputs, targets)
        module.log_dict(named(terms), batch_size=_size(inputs))
        return terms

    def on_fit_start(self) -> None:
        """Refuse strategies under which a process holds a part of a weight only."""
        names = {kind.__name__ for kind in type(self.trainer.strategy).__mro__}  # type: ignore[attr-defined]
        if names & _SHARDED:
            raise FlatnessError(
                f"the trainer's strategy is {type(self.trainer.strategy).__name__}: a process "  # type: ignore[attr-defined]
                'holds a part of the weight only. Use Trainer(strategy="ddp").'
            )
        parent = getattr(super(), "on_fit_start", None)
        if parent is not None:
            parent()


class FAMModule(FAMMixin, LightningModule):  # type: ignore[misc]
    """A ``LightningModule`` around an objective: it lacks only ``configure_optimizers``.

    Batches are pairs (inputs, targets); overwrite `unpack` for others. Calling the module calls
    the network. Validation and test log the plain loss as ``val/loss`` and ``test/loss``.

    Args:
        objective: The objective.

    Raises:
        FlatnessError: If it is none.
    """

    def __init__(self, objective: FAM) -> None:
        super().__init__()
        self.objective = objective_of(objective, "FAMModule")
        if self.objective is not objective:
            raise FlatnessError(
                "FAMModule got a DistributedDataParallel: pass the objective itself; "
                "Lightning wraps the module."
            )

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Return the network's output."""
        return self.objective.model(*args, **kwargs)

    def unpack(self, batch: Any) -> tuple[Any, Any]:  # noqa: ANN401
        """Return the network's inputs and the targets.

        Args:
            batch: What the loader gave.

        Returns:
            Inputs and targets, as `famseg.flatness.FAM` takes them.

        Raises:
            FlatnessError: If the batch is not a pair.
        """
        if isinstance(batch, tuple | list) and len(batch) == 2:
            return batch[0], batch[1]
        raise FlatnessError(
            f"a batch is a {type(batch).__name__}, not a pair (inputs, targets). Override "
            "unpack(self, batch) to return such a pair."
        )

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: ANN401
        """Return the total of one batch."""
        return self.training_terms(*self.unpack(batch)).total

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: ANN401
        """Return and log the plain loss of one batch."""
        return self._evaluated(batch, "val/loss")

    def test_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: ANN401
        """Return and log the plain loss of one batch."""
        return self._evaluated(batch, "test/loss")

    def _evaluated(self, batch: Any, name: str) -> Tensor:  # noqa: ANN401
        inputs, targets = self.unpack(batch)
        loss: Tensor = self.objective(inputs, targets).loss
        self.log(name, loss, batch_size=_size(inputs), sync_dist=True)
        return loss


def _size(inputs: Any) -> int:  # noqa: ANN401
    """Return the number of samples, by which Lightning weights logged means."""
    if isinstance(inputs, Tensor):
        return len(inputs) if inputs.ndim else 1
    items = inputs.values() if isinstance(inputs, Mapping) else inputs
    return next((_size(item) for item in items if torch.is_tensor(item)), 1)
