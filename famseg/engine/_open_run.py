"""Opening of a run folder: its experiment with the weights of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, cast

from famseg.messages import InputError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from famseg.engine._config import RunConfig
    from famseg.engine._experiment import Experiment
    from famseg.engine._processes import Processes
    from famseg.runs import RunFolder


class Which(StrEnum):
    """The checkpoints that a run keeps."""

    best = "best"
    last = "last"


@dataclass(frozen=True)
class Opened:
    """A run, ready to be used.

    Attributes:
        folder: Its folder.
        checkpoint: The file that contains the weights.
        epoch: The epoch of the weights.
        config: The configuration.
        experiment: What the pipeline built.
        model: The trained network, on the device.
        device: The device of the network.
    """

    folder: RunFolder
    checkpoint: Path
    epoch: int
    config: RunConfig
    experiment: Experiment
    model: nn.Module
    device: torch.device


def device_of(folder: RunFolder, overrides: Sequence[str] = ()) -> str:
    """Return ``training.device`` of a run, for `processes`: with ``cpu`` no GPU is touched.

    Args:
        folder: The run folder.
        overrides: Changes of the configuration, ``key=value``.

    Raises:
        InputError: If the configuration is faulty.
    """
    from famseg.config import load  # pydantic

    return cast("RunConfig", load(str(folder.config), overrides)[1]).training.device


def open_run(
    folder: RunFolder, which: Which, processes: Processes, *, overrides: Sequence[str] = ()
) -> Opened:
    """Build a run's experiment again and load a checkpoint into its network.

    Args:
        folder: The run folder.
        which: The checkpoint.
        processes: The ranks of the command.
        overrides: Changes of the configuration, ``key=value``.

    Raises:
        InputError: If there is no such checkpoint, or it does not fit the run.
    """
    import torch

    from famseg.config import load
    from famseg.engine._checkpoint import load_checkpoint
    from famseg.engine._device import say_device
    from famseg.engine._memory import keep_freed_memory
    from famseg.engine._precision import exact_float32

    pipeline, loaded = load(str(folder.config), overrides)
    config = cast("RunConfig", loaded)
    keep_freed_memory()
    if config.training.threads is not None:
        torch.set_num_threads(config.training.threads)
    checkpoint = folder.checkpoint(which)
    state = load_checkpoint(checkpoint)
    device = config.training.choose_device(processes)
    say_device(device)
    exact_float32()
    torch.manual_seed(config.seed)  # for pipelines that draw random numbers, unlike those of famseg
    experiment = pipeline.build(config, device)
    model = experiment.objective.to(device).model
    try:
        model.load_state_dict(state["model"])
        epoch = int(state["epoch"])
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{checkpoint}: does not fit the network of {folder.config}. Were they copied from "
            "different runs?"
        ) from error
    return Opened(folder, checkpoint, epoch, config, experiment, model, device)
