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

# Keys that may differ when a run is resumed: they affect where and how fast it runs and what it
# keeps, but not its result.
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
    """Adam, with weight decay as an L2 term of the gradient."""

    kind: Literal["adam"] = "adam"

    def build(self) -> Optimizers:
        """Return the function that creates the optimizer for given parameters."""
        from torch.optim import Adam

        return lambda parameters: Adam(
            parameters, lr=self.learning_rate, weight_decay=self.weight_decay
        )


class AdamWConfig(_Optimizer):
    """AdamW: Adam with decoupled weight decay."""

    kind: Literal["adamw"]

    def build(self) -> Optimizers:
        """Return the function that creates the optimizer for given parameters."""
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
        """Return the function that creates the optimizer for given parameters."""
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
    """The learning-rate schedule."""

    kind: Literal["constant", "cosine", "linear", "step"] = Field(
        "constant", description="learning-rate schedule after the warm-up"
    )
    warmup: float = Field(0.0, ge=0, description="epochs of linear increase from 0")
    milestones: tuple[float, ...] = Field(
        (),
        strict=False,
        description="step: fractions of the training, in (0, 1), at which the rate drops",
    )
    gamma: float = Field(0.1, gt=0, description="step: factor applied at each milestone")
    floor: float = Field(0.0, ge=0, le=1, description="cosine, linear: factor at the end")

    @model_validator(mode="after")
    def _milestones_fit(self) -> Self:
        if any(not 0 < milestone < 1 for milestone in self.milestones):
            raise ValueError("milestones are fractions of the training, between 0 and 1")
        if self.kind == "step" and not self.milestones:
            raise ValueError("kind step needs milestones, for example [0.3, 0.6, 0.8]")
        return self

    def build(self, epochs: int) -> Callable[[float], float]:
        """Return the function from a time in epochs to the factor of the base learning rate."""
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
    """Stop when the validation metric has not improved for a while."""

    patience: int = Field(gt=0, description="validations without improvement before the end")
    min_delta: float = Field(0.0, ge=0, description="smaller improvements do not count")


class KeepConfig(Strict):
    """Which checkpoints are kept as ``checkpoints/epoch-00012.pt``, besides best and last."""

    last: int = Field(
        1, gt=0, description="number of last epochs whose checkpoints are kept; 1: last.pt only"
    )
    every: int | None = Field(
        None, gt=0, description="keep every N-th epoch permanently; absent: none"
    )


class TrainingConfig(Strict):
    """How long and how to train."""

    epochs: int = Field(gt=0, description="passes over the training set")
    batch_size: int = Field(4, gt=0, description="samples per forward pass, over all ranks")
    accumulate: int = Field(1, gt=0, description="forward passes per optimizer step")
    clip_norm: float | None = Field(
        None, gt=0, description="largest norm of a gradient; longer ones are cut"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="autocast type; the penalty is always computed in float32"
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="decay per step of an exponential moving average of the weights, which is then "
        "validated, saved and evaluated; absent: no average",
    )
    swa: SWAConfig | None = Field(
        None, description="stochastic weight averaging; absent: no average"
    )
    sync_batchnorm: bool = Field(
        True,
        description="with several ranks, normalize over the batch of all of them, as one process "
        "does; false: each over its own part",
    )
    channels_last: bool = Field(
        False, description="store images with channels innermost, which is faster on most devices"
    )
    compile: bool = Field(
        False, description="compile the network up to the penalized layer (torch.compile)"
    )
    validate_every: int = Field(1, gt=0, description="epochs between validations")
    picture_every: int = Field(10, gt=0, description="epochs between images")
    early_stopping: EarlyStoppingConfig | None = Field(
        None, description="stop early; absent: train for all epochs"
    )
    keep: KeepConfig = Field(
        default_factory=KeepConfig, description="checkpoints that are kept besides best and last"
    )
    workers: int = Field(
        0,
        ge=0,
        description="worker processes that load data, in training and validation; 0: load in the "
        "main process",
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    threads: int | None = Field(None, gt=0, description="CPU threads; absent: torch decides")

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
        """Return the device of this rank.

        Raises:
            InputError: If the configuration asks for a CUDA device that does not exist.
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

        return Fit(
            experiment,
            self,
            folder=folder,
            processes=processes,
            device=device,
            seed=seed,
            sam=sam,
            nso=nso,
        )


class RunConfig(Strict):
    """The keys that the configuration of every pipeline has."""

    pipeline: str = Field(description="name of the pipeline, an entry point of famseg.pipelines")
    name: str = Field(
        "run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the run's folder"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="seed of all random numbers")
    output: PathText = Field("runs", description="folder in which run folders are created")
    penalty: PenaltyConfig = Field(description="the penalty, added to the loss times lambda")
    optimizer: OptimizerConfig = Field(default_factory=AdamConfig, description="optimizer")
    schedule: ScheduleConfig = Field(
        default_factory=ScheduleConfig, description="learning-rate schedule"
    )
    sam: SharpnessConfig | None = Field(
        None,
        description="sharpness-aware minimization or a variant; kind is sam unless given; absent: "
        "the plain gradient",
    )
    nso: NSOConfig | None = Field(
        None, description="noise stability optimization; absent: the plain gradient"
    )
    training: TrainingConfig = Field(description="how long and how to train")
    tracking: TrackingConfig = Field(default_factory=TrackingConfig, description="MLflow")

    @property
    def method(self) -> str:
        """The part of a run folder's name about the method, such as ``-asam0.5``; often empty."""
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
                "training.clip_norm does not bound the sharpness that sam subtracts from the "
                "weights after the step. Set sam.decoupled to false, or leave clip_norm out."
            )
        if isinstance(self.penalty, JacobianNormConfig) and training.compile:
            raise ValueError(
                "training.compile: compiled networks have no second derivatives, which the penalty "
                "jacobian_norm needs. Set it to false."
            )
        return self
