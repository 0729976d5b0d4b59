"""A small float64 network, its data, and the explicit training loop that adapters must match."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
import warm
from torch import Tensor, nn

from famseg.flatness import FAM


@pytest.fixture
def make_net() -> Callable[..., nn.Sequential]:
    """Networks with equal weights: "2" is 5 x 6, "5" is 3 x 5; optional dropout."""

    def make(dropout: float = 0.0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
        torch.manual_seed(0)
        first, second = nn.Linear(4, 6), nn.Linear(6, 5)
        layers = first, nn.Tanh(), second, nn.Tanh(), nn.Dropout(dropout), nn.Linear(5, 3)
        return nn.Sequential(*layers).to(dtype)

    return make


@pytest.fixture
def samples() -> tuple[Tensor, Tensor]:
    """22 samples, not divisible by the batch size 4 nor by accumulated batches."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(22, 4, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(0, 3, (22,), generator=generator)


@pytest.fixture
def hand_written() -> Callable[..., list[Tensor]]:
    """Train without a framework; return the parameters.

    ``share(own, window)`` is the factor of a part's mean in a window of parts of these sizes.
    """

    def train(
        objective: FAM,
        samples: tuple[Tensor, Tensor],
        optimizer: torch.optim.Optimizer,
        *,
        epochs: int = 2,
        accumulate: int = 1,
        clip_norm: float | None = None,
        share: Callable[[int, list[int]], float] | None = None,
        autocast: torch.dtype | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> list[Tensor]:
        batches = list(zip(*(part.split(4) for part in samples), strict=True))
        windows = [batches[i : i + accumulate] for i in range(0, len(batches), accumulate)]
        for step, window in enumerate(windows * epochs):
            optimizer.zero_grad()
            sizes = [len(targets) for _, targets in window]
            for part, (inputs, targets) in enumerate(window):
                objective.seek(step, stream=part)
                with torch.autocast("cpu", dtype=autocast) if autocast else nullcontext():
                    total = objective(inputs, targets).total
                factor = share(len(targets), sizes) if share else 1 / accumulate
                (scaler.scale(total * factor) if scaler else total * factor).backward()
            if scaler:
                scaler.unscale_(optimizer)
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(objective.parameters(), clip_norm)
            if scaler:
                scaler.step(optimizer)
                scaler.update()
            else:
                optimizer.step()
        return list(objective.parameters())

    return train


@pytest.fixture
def assert_same() -> Callable[..., None]:
    def same(found, wanted, *, rtol: float = 1e-12, atol: float = 1e-14) -> None:
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one.detach(), other.detach(), rtol=rtol, atol=atol)

    return same


@pytest.fixture
def process_group(tmp_path) -> Iterator[None]:
    """A group of this single process, which DDP needs."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def two_processes(tmp_path) -> Callable[[str], dict[str, list[Tensor]]]:
    """Run a script in two processes as torchrun does; return what the first one saved."""

    def run(script: str) -> dict[str, list[Tensor]]:
        path = tmp_path / "script.py"
        path.write_text(script)
        for done in warm.run_ranks(2, str(path), str(tmp_path)):
            assert done.returncode == 0, done.stdout + done.stderr
        return torch.load(tmp_path / "found.pt", weights_only=True)

    return run
