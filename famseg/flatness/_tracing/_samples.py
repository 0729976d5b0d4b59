"""Detection of the tensors among the arguments of model and loss that hold one row per sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from famseg.flatness._errors import FlatnessError
from famseg.flatness._tracing._arguments import mapped

INPUTS, TARGETS, PREDICTION = "inputs", "targets", "prediction"

Layout = tuple[tuple[str, bool], ...]
"""Paths of the tensors of a batch, and whether each is as long as the batch."""


@dataclass(frozen=True)
class Cut:
    """The tensors to cut when a part of a batch replaces it.

    Attributes:
        held: Paths of the tensors that hold one row per sample; all others are passed unchanged.
    """

    held: frozenset[str]

    def rows(self, value: Any, part: Tensor | None, root: str) -> Any:  # noqa: ANN401
        """Return a value with the samples of a part selected and everything else unchanged.

        Args:
            value: Arguments of the model or the loss, or the output of the model.
            part: Indices of the samples; ``None`` for all.
            root: Root of the paths: ``"inputs"``, ``"targets"`` or ``"prediction"``.
        """
        if part is None:
            return value

        def rows(path: str, tensor: Tensor) -> Tensor:
            return tensor[part.to(tensor.device)] if path in self.held else tensor

        return mapped(value, rows, root)


class Lengths:
    """Learns from batches of several sizes which tensors hold samples.

    A tensor may have the length of a batch by coincidence, such as a mask of positions or class
    weights. A tensor whose length differed from that of a batch even once does not hold samples.
    Remaining cases are decided by trial: see `famseg.flatness._tracing._parts`.

    Args:
        named: Paths specified by the user, which are definitive; ``None`` to learn them.
    """

    def __init__(self, named: Sequence[str] | None = None) -> None:
        self._named = None if named is None else tuple(named)
        self._other: set[str] = set()
        self._loose: set[str] = set()

    def layout(self, inputs: object, targets: object) -> tuple[int, Layout]:
        """Return the number of samples of a batch, and the tensors of that length.

        Args:
            inputs: The model's arguments; the first tensor, or the first one specified by the user,
                determines the number of samples.
            targets: The targets of the loss.

        Raises:
            FlatnessError: If the user specified a tensor that does not exist.
        """
        tensors = [*leaves(inputs, INPUTS), *leaves(targets, TARGETS)]
        if self._named is not None:
            self._check_named([path for path, _ in tensors])
        counted = [
            tensor
            for path, tensor in tensors
            if path.startswith(INPUTS) and tensor.ndim and self._is_named(path)
        ]
        n = len(counted[0]) if counted else 0
        found = tuple((path, tensor.ndim > 0 and len(tensor) == n) for path, tensor in tensors)
        self._other.update(path for path, as_long in found if not as_long)
        return n, found

    def loose(self, rows: Mapping[str, int], n: int) -> bool:
        """Return whether any of the layers has, or once had, rows that are not samples.

        The number of tokens routed to an expert may equal the number of samples by coincidence.

        Args:
            rows: Number of rows in the input of each layer, by name.
            n: Number of samples; 0 if it is unknown.
        """
        self._loose.update(name for name, count in rows.items() if n and count != n)
        return not self._loose.isdisjoint(rows)

    def held(self, layout: Layout) -> frozenset[str]:
        """Return the paths of tensors that may hold samples."""
        return frozenset(
            path
            for path, as_long in layout
            if as_long and path not in self._other and self._is_named(path)
        )

    def _is_named(self, path: str) -> bool:
        return self._named is None or any(_within(path, name) for name in self._named)

    def _check_named(self, paths: Sequence[str]) -> None:
        for name in self._named or ():
            if not any(_within(path, name) for path in paths):
                raise FlatnessError(
                    f"samples_in names {name!r}, which is not a tensor of this batch. It has "
                    f"{', '.join(map(repr, paths))}."
                )


def leaves(value: object, root: str) -> Iterator[tuple[str, Tensor]]:
    """Return the tensors in a value with their paths.

    Example:
        >>> import torch
        >>> [path for path, _ in leaves({"x": torch.zeros(2), "y": [torch.ones(1)]}, "inputs")]
        ['inputs.x', 'inputs.y.0']
    """
    found: list[tuple[str, Tensor]] = []

    def note(path: str, tensor: Tensor) -> Tensor:
        found.append((path, tensor))
        return tensor

    mapped(value, note, root)
    return iter(found)


def _within(path: str, name: str) -> bool:
    return path == name or path.startswith(name + ".")
