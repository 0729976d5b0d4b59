"""Configuration sections that every pipeline shares."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from famseg.config import PathText, Strict
from famseg.engine._methods_config import NSOConfig, SharpnessConfig, SWAConfig, WSAMConfig
from famseg.messages import InputError
from famseg.objectives import JacobianNormConfig, PenaltyConfig
from famseg.tracking import TrackingConfig

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.optim import Optimizer

    from famseg.engine._experiment import Experiment
    from famseg.engine._fit import Fit
    from famseg.engine._processes import Processes

    Optimizers = Callable[[Iterable[nn.Parameter]], Optimizer]

# What may differ when a run is resumed: it changes where and how fast a run goes and what it keeps,
# not where it arrives.
FREE_ON_RESUME = (
    "output",
    "tracking",
    "training.workers",
    "training.device",
    "training.keep",
    "training.threads",
    "training.picture_every",
)


class _Optimizer(Strict):
    learning_rate: float = Field(1e-3, gt=0, description="base learning rate")
    weight_decay: float = Field(0.0, ge=0, description="weight decay on all parameters")


class AdamConfig(_Optimizer):
    """Adam; weight decay as an L2 term of the gradient."""

    kind: Literal["adam"] = "adam"

    def build(self) -> Optimizers:
        """Return what makes the optimizer of given parameters."""
        from torch.optim import Adam

        return lambda parameters: Adam(
            parameters, lr=self.learning_rate, weight_decay=self.weight_decay
        )


class AdamWConfig(_Optimizer):
    """AdamW: Adam with decoupled weight decay."""

    kind: Literal["adamw"]

    def build(self) -> Optimizers:
        """Return what makes the optimizer of given parameters."""
        from torch.optim import AdamW

        return lambda parameters: AdamW(
            parameters, lr=self.learning_rate, weight_decay=self.weight_decay
        )


class SGDConfig(_Optimizer):
    """Stochastic gradient descent."""

    kind: Literal["sgd"]
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum")
    nesterov: bool = Field(False, description="Nesterov's momentum")

    def build(self) -> Optimizers:
        """Return what makes the optimizer of given parameters."""
        from torch.optim import SGD

        return lambda parameters: SGD(
            parameters,
            lr=self.learning_rate,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
        )


OptimizerConfig = Annotated[AdamConfig | AdamWConfig | SGDConfig, Field(discriminator="kind")]


class ScheduleConfig(Strict):
    """The course of the learning rate."""

    kind: Literal["constant", "cosine", "linear", "step"] = Field(
        "constant", description="course of the learning rate after the warm-up"
    )
    warmup: float = Field(0.0, ge=0, description="epochs of linear growth from 0")
    milestones: tuple[float, ...] = Field(
        (), strict=False, description="step: moments as fractions of the training in (0, 1)"
    )
    gamma: float = Field(0.1, gt=0, description="step: factor at each milestone")
    floor: float = Field(0.0, ge=0, le=1, description="cosine, linear: lowest factor")

    @model_validator(mode="after")
    def _milestones_fit(self) -> Self:
        if any(not 0 < milestone < 1 for milestone in self.milestones):
            raise ValueError("milestones are fractions of the training, between 0 and 1")
        if self.kind == "step" and not self.milestones:
            raise ValueError("kind step needs milestones, for example [0.3, 0.6, 0.8]")
        return self

    def build(self, epochs: int) -> Callable[[float], float]:
        """Return what maps a moment in epochs to the factor of the base learning rate."""
        from famseg.engine._schedule import learning_rate_factor

        return partial(
            learning_rate_factor,
            epochs=epochs,
            kind=self.kind,
            warmup=self.warmup,
            milestones=self.milestones,
            gamma=self.gamma,
            floor=self.floor,
        )


class EarlyStoppingConfig(Strict):
    """End when the validation metric has not risen for a while."""

    patience: int = Field(gt=0, description="validations without a rise before the end")
    min_delta: float = Field(0.0, ge=0, description="a rise of at most this counts as none")


class KeepConfig(Strict):
    """Which checkpoints of epochs stay as ``checkpoints/epoch-00012.pt``, beside best and last."""

    last: int = Field(
        1, gt=0, description="checkpoints of so many of the last epochs; 1: last.pt alone"
    )
    every: int | None = Field(
        None, gt=0, description="also that of each so many epochs, for good; absent: none"
    )


class TrainingConfig(Strict):
    """How long and in which way to train."""

    epochs: int = Field(gt=0, description="passes over the training set")
    batch_size: int = Field(4, gt=0, description="samples a forward pass, over all processes")
    accumulate: int = Field(1, gt=0, description="forward passes an optimizer step")
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the gradient")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="type of the autocast; the penalty stays in float32"
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="decay a step of a moving average of the weights, which is then what is "
        "validated, kept and evaluated; absent: the weights themselves",
    )
    swa: SWAConfig | None = Field(
        None, description="stochastic weight averaging; absent: the weights themselves"
    )
    sync_batchnorm: bool = Field(
        True,
        description="several processes: batch normalization over the samples of all, as with one "
        "process; false: over those of each",
    )
    channels_last: bool = Field(
        False, description="memory order of pictures: channels innermost, faster on most devices"
    )
    compile: bool = Field(
        False, description="compile the network up to the penalised layer (torch.compile)"
    )
    validate_every: int = Field(1, gt=0, description="epochs between validations")
    picture_every: int = Field(10, gt=0, description="epochs between pictures")
    early_stopping: EarlyStoppingConfig | None = Field(
        None, description="end early; absent: train all epochs"
    )
    keep: KeepConfig = Field(
        default_factory=KeepConfig, description="checkpoints that are kept beside best and last"
    )
    workers: int = Field(
        0,
        ge=0,
        description="processes that load data, in training and validation; 0: the main process",
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    threads: int | None = Field(None, gt=0, description="CPU threads; absent: torch's default")

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
            raise ValueError(f"must be auto, cpu, cuda or cuda:N, got {device}")
        return device

    @model_validator(mode="after")
    def _averages_fit(self) -> Self:
        swa = self.swa
        if swa is None:
            return self
        if self.ema is not None:
            raise ValueError("ema and swa both average the weights. Leave one of them out.")
        if self.early_stopping is not None:
            raise ValueError(
                "early_stopping may end a training before swa averages anything. Leave one of them "
                "out."
            )
        averaged = (self.epochs - swa.first(self.epochs)) // swa.every + 1
        if averaged < 2:
            raise ValueError(
                f"swa would average the weights of one epoch only, number {swa.first(self.epochs)} "
                f"of {self.epochs}. Train longer, or lower swa.start or swa.every."
            )
        return self

    def choose_device(self, processes: Processes) -> torch.device:
        """Return the device of this process.

        Raises:
            InputError: If CUDA is asked for and there is none.
        """
        import torch

        if self.device == "cpu" or (self.device == "auto" and not torch.cuda.is_available()):
            return torch.device("cpu")
        number = processes.local_rank
        if ":" in self.device and processes.world == 1:
            number = int(self.device.partition(":")[2])
        if number >= torch.cuda.device_count():
            raise InputError(
                f"training.device: there is no CUDA device {number} "
                f"({torch.cuda.device_count()} found). Set training.device=cpu, or see "
                "`famseg doctor`."
            )
        return torch.device("cuda", number)

    def build(
        self,
        experiment: Experiment,
        *,
        folder: Path,
        processes: Processes,
        device: torch.device,
        seed: int,
        sam: SharpnessConfig | None = None,
        nso: NSOConfig | None = None,
    ) -> Fit:
        """Return the training of an experiment in a run folder."""
        from famseg.engine._fit import Fit

        early = self.early_stopping
        return Fit(
            experiment,
            folder=folder,
            processes=processes,
            device=device,
            seed=seed,
            epochs=self.epochs,
            batch_size=self.batch_size,
            accumulate=self.accumulate,
            clip_norm=self.clip_norm,
            precision=self.precision,
            sam=sam,
            nso=nso,
            ema=self.ema,
            swa=self.swa,
            sync_batchnorm=self.sync_batchnorm,
            channels_last=self.channels_last,
            compiled=self.compile,
            validate_every=self.validate_every,
            picture_every=self.picture_every,
            patience=early.patience if early else None,
            min_delta=early.min_delta if early else 0.0,
            workers=self.workers,
            keep_last=self.keep.last,
            keep_every=self.keep.every,
        )


class RunConfig(Strict):
    """What every pipeline's configuration holds."""

    pipeline: str = Field(description="name of the pipeline, an entry point of famseg.pipelines")
    name: str = Field(
        "run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the run's folder"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="seed of everything random")
    output: PathText = Field("runs", description="folder in which run folders are made")
    penalty: PenaltyConfig = Field(description="what is added to the loss, times lambda")
    optimizer: OptimizerConfig = Field(default_factory=AdamConfig, description="optimizer")
    schedule: ScheduleConfig = Field(
        default_factory=ScheduleConfig, description="course of the learning rate"
    )
    sam: SharpnessConfig | None = Field(
        None,
        description="sharpness-aware minimisation or a variant, kind sam if none is given; absent: "
        "the plain gradient",
    )
    nso: NSOConfig | None = Field(
        None, description="noise stability optimization; absent: the plain gradient"
    )
    training: TrainingConfig = Field(description="length and manner of the training")
    tracking: TrackingConfig = Field(default_factory=TrackingConfig, description="MLflow")

    @property
    def method(self) -> str:
        """What a run's folder says about its way of training, such as ``-asam0.5``; often empty."""
        ways = (self.sam, self.nso, self.training.swa)
        return "".join(f"-{way.tag}" for way in ways if way is not None)

    @field_validator("sam", mode="before")
    @classmethod
    def _sam_by_default(cls, sam: object) -> object:
        return {"kind": "sam", **sam} if isinstance(sam, dict) else sam

    @model_validator(mode="after")
    def _methods_fit(self) -> Self:
        sam, training = self.sam, self.training
        if sam is not None and self.nso is not None:
            raise ValueError(
                "sam and nso both choose where a step takes its gradient. Leave one of them out."
            )
        if isinstance(sam, WSAMConfig) and sam.decoupled and training.clip_norm is not None:
            raise ValueError(
                "training.clip_norm does not bound the sharpness that sam takes off the weights "
                "after the step. Set sam.decoupled to false, or leave clip_norm out."
            )
        if isinstance(self.penalty, JacobianNormConfig) and training.compile:
            raise ValueError(
                "training.compile: compiled networks have no second derivatives, which the penalty "
                "jacobian_norm needs. Set it to false."
            )
        return self
