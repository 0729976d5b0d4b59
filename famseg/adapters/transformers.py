"""Relative flatness in the ``Trainer`` of Hugging Face's transformers.

objective = FAM(model, layer="classifier", output="logits", loss=loss, weight=0.1)
trainer = FAMTrainer(objective=objective, args=args, train_dataset=dataset)
trainer.train()
"""

from __future__ import annotations

import io
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate.utils import DistributedType
from torch import Tensor
from transformers import Trainer

from famseg.adapters._objective import check_model_is_of, named, objective_of
from famseg.files import write_atomically
from famseg.flatness import FAM, FlatnessError, Terms

__all__ = ["FAMTrainer"]

_PROCESSES = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


class FAMTrainer(Trainer):  # type: ignore[misc]
    """A ``Trainer`` that minimizes an objective in place of the model's own loss.

    The labels, which `Trainer` finds by their name, go to the objective's loss, not to the model;
    where there are several they come as a mapping. Evaluation computes the objective's plain loss.
    All else is `Trainer`'s: precision, accumulation, clipping, schedules, saving, resuming. On
    several ranks ``DistributedDataParallel`` wraps the objective. Parts of an
    accumulated batch count by their labels, as there. Checkpoints contain only the model, as
    always; which steps carry a penalty, and which probes, follows from ``global_step``, and the
    state of the objective's ``generator``, if it has one, is saved with the random states.

    Logged are ``loss``, ``penalty`` and ``total``, which reports show as ``train/loss`` and so on.
    The ``training_loss`` that `train` returns is the mean total.

    It combines with other subclasses of `Trainer`: ``class Mine(FAMTrainer, Seq2SeqTrainer)``.

    Args:
        objective: The objective. Most models need ``output="logits"``.
        model: The objective's model; by default that.
        kwargs: As `Trainer` takes them, without ``model_init`` and ``compute_loss_func``.

    Raises:
        FlatnessError: If the objective is none, or if an argument or a setting does not fit.
    """

    def __init__(self, *, objective: FAM, model: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        self.objective = objective_of(objective, "FAMTrainer")
        if self.objective is not objective:
            raise FlatnessError(
                "FAMTrainer got a DistributedDataParallel: pass the objective itself; "
                "Trainer wraps it."
            )
        if model is not None:
            check_model_is_of(objective, model, "FAMTrainer(model=...)")
        for name in ("model_init", "compute_loss_func"):
            if kwargs.get(name) is not None:
                raise FlatnessError(
                    f"FAMTrainer takes no {name}: the objective contains the model and the "
                    "loss. Create a new FAM(model, loss=..., ...)."
                )
        super().__init__(model=objective.model, **kwargs)
        self._check_settings()
        self._wrapped: Any = objective
        self._step, self._part = -1, 0
        self._sums: dict[str, Tensor] = {}
        self._steps: set[int] = set()
        self._penalized: set[int] = set()

    def compute_loss(
        self,
        model: Any,  # noqa: ANN401
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:  # noqa: ANN401
        """Return the total of one batch in training, the plain loss in evaluation.

        Args:
            model: The objective, wrapped or not, in training; the model in evaluation.
            inputs: What the model takes, and the labels.
            return_outputs: Whether to return the model's output too; the terms in training.
            num_items_in_batch: Labels in all parts of the accumulated batch.

        Returns:
            A scalar, or a pair.

        Raises:
            FlatnessError: As `famseg.flatness.FAM`, or if there are no labels.
        """
        arguments, targets = self._split(inputs)
        share = self._share(inputs, num_items_in_batch)
        if self.accelerator.unwrap_model(model) is not self.objective:
            outputs = model(**arguments)
            loss = self.objective.loss(_select(outputs, self.objective.output), targets)
            loss = share.of(loss)
            # `Trainer` uses the first element of a tuple as the loss.
            rest = (loss, *outputs) if isinstance(outputs, tuple) else outputs
            return (loss, rest) if return_outputs else loss
        self._seek()
        terms: Terms = model(arguments, targets)
        self._note(terms, share)
        total = share.of(terms.total)
        return (total, terms) if return_outputs else total

    def compute_loss_context_manager(self) -> ExitStack:
        """Compute in the precision of the settings: `Trainer` casts only models that it wrapped."""
        stack: ExitStack = super().compute_loss_context_manager()
        stack.enter_context(self.accelerator.autocast())
        return stack

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Log numbers; the total that `Trainer` calls loss is logged as total, with its parts.

        Args:
            logs: The numbers.
            args: As `Trainer` passes them.
            kwargs: The same.
        """
        if "loss" in logs and self._sums:
            logs = {**self._means(logs["loss"]), **{k: v for k, v in logs.items() if k != "loss"}}
        super().log(logs, *args, **kwargs)

    def _check_settings(self) -> None:
        kind = self.accelerator.distributed_type
        if kind not in _PROCESSES or self.args.n_gpu > 1:
            what = "DataParallel" if kind in _PROCESSES else kind.value
            raise FlatnessError(
                f"FAMTrainer runs on one device per process, and this is {what}. Start a process "
                "for "
                "each device: torchrun --nproc-per-node=2 script.py."
            )
        if self.args.torch_compile:
            raise FlatnessError(
                "torch_compile=True compiles all of the model, and compiled modules have no second "
                "derivatives. Remove it and compile the part before the layer: "
                "model.bert = torch.compile(model.bert)."
            )
        if self.label_smoother is not None:
            raise FlatnessError(
                "label_smoothing_factor has no effect on the objective's loss. Leave it at 0 and "
                "use FAM(loss=nn.CrossEntropyLoss(label_smoothing=...), ...)."
            )

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        network: Any = self.objective.model
        self.create_optimizer()  # before the names of parameters change
        # An evaluation before training leaves its own cast around the model.
        self.accelerator.unwrap_model(network, keep_fp32_wrapper=False)
        self.model, self.model_wrapped = self.objective, self._wrapped
        try:
            wrapped, loader = super()._prepare_for_training(*args, **kwargs)
        finally:
            self.model = self.callback_handler.model = network
        self._wrapped = wrapped
        self._step, self._part = -1, 0
        return wrapped, loader

    def _seek(self) -> None:
        step = self.state.global_step
        self._part = self._part + 1 if step == self._step else 0
        self._step = step
        rank, world = self.args.process_index, self.args.world_size
        self.objective.seek(step, stream=self._part * world + rank)

    def _split(self, inputs: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """Return the model's arguments and the targets."""
        targets = {name: inputs[name] for name in self.label_names if name in inputs}
        if not targets:
            raise FlatnessError(
                f"a batch has no labels: it has {', '.join(map(repr, inputs))}, and labels are "
                f"called {', '.join(map(repr, self.label_names))}. Rename them, or set "
                "TrainingArguments(label_names=[...])."
            )
        arguments = {name: value for name, value in inputs.items() if name not in targets}
        return arguments, targets if len(self.label_names) > 1 else next(iter(targets.values()))

    def _share(self, inputs: dict[str, Any], items: Tensor | int | None) -> _Share:
        """Return the weight of this part's mean in that of the whole accumulated batch."""
        if items is None:
            return _Share(1, 1)  # `Trainer` divides by the number of parts
        labels = inputs["labels"]
        own = (labels[..., 1:] if self._loss_shifts_labels else labels).ne(-100).sum()
        # DDP averages over processes.
        world = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return _Share(own * world, items)

    def _note(self, terms: Terms, share: _Share) -> None:
        parts = self.current_gradient_accumulation_steps if share.whole else 1
        for name, value in named(terms).items():
            key = name.removeprefix("train/")
            self._sums[key] = self._sums.get(key, 0) + share.of(value) / parts
        self._steps.add(self.state.global_step)
        if terms.penalty is not None:
            self._penalized.add(self.state.global_step)

    def _means(self, total: float) -> dict[str, float]:
        """Return the means over steps since the last call; the penalty's, over steps with one."""
        means = {"loss": self._reduced("loss") / len(self._steps)}
        if self._penalized:
            means["penalty"] = self._reduced("penalty") / len(self._penalized)
        self._sums, self._steps, self._penalized = {}, set(), set()
        return {**means, "total": total}

    def _reduced(self, name: str) -> float:
        return float(self.accelerator.reduce(self._sums[name], reduction="mean"))

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        torch.save(self.objective.get_extra_state(), content)
        write_atomically(self._state_file(output_dir), content.getbuffer())

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint is not None and self._state_file(checkpoint).is_file():
            state = torch.load(self._state_file(checkpoint), weights_only=True)
            self.objective.set_extra_state(state)

    def _state_file(self, folder: str) -> Path:
        return Path(folder) / f"flatness_{self.args.process_index}.pt"


class _Share(NamedTuple):
    """A fraction stored as numerator and denominator, since a float32 quotient would round."""

    own: Tensor | int
    items: Tensor | int

    @property
    def whole(self) -> bool:
        """Whether `Trainer` divides by the number of parts."""
        return isinstance(self.own, int)

    def of(self, value: Tensor) -> Tensor:
        """Return this share of a value."""
        return value * self.own / self.items


def _select(outputs: Any, name: str | None) -> Any:  # noqa: ANN401
    if name is None:
        return outputs
    return outputs[name] if isinstance(outputs, dict) else getattr(outputs, name)
