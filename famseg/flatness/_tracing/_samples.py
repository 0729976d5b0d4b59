"""Which of the tensors that a model and a loss are given hold samples, one a row."""

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
    """What is cut when a part of a batch replaces all of it.

    Attributes:
        held: Paths of the tensors that hold one row a sample; all others are given as they are.
    """

    held: frozenset[str]

    def rows(self, value: Any, part: Tensor | None, root: str) -> Any:  # noqa: ANN401
        """Return the samples of a part in whatever holds them, everything else as it is.

        Args:
            value: Arguments of the model or the loss, or what the model returned.
            part: Numbers of the samples; ``None`` for all.
            root: Where the value is: ``"inputs"``, ``"targets"`` or ``"prediction"``.
        """
        if part is None:
            return value

        def rows(path: str, tensor: Tensor) -> Tensor:
            return tensor[part.to(tensor.device)] if path in self.held else tensor

        return mapped(value, rows, root)


class Lengths:
    """Learns from batches of several sizes which tensors hold samples.

    A tensor that is as long as a batch may be so by accident: a mask of positions, class weights.
    One that was longer or shorter than a batch even once does not hold samples. What that leaves
    open is tried: see `famseg.flatness._tracing._parts`.

    Args:
        named: Paths that the user named, which settle the question; ``None`` to learn them.
    """

    def __init__(self, named: Sequence[str] | None = None) -> None:
        self._named = None if named is None else tuple(named)
        self._other: set[str] = set()
        self._loose: set[str] = set()

    def layout(self, inputs: object, targets: object) -> tuple[int, Layout]:
        """Return the number of samples of a batch, and what is as long as that.

        Args:
            inputs: The model's arguments; the first tensor in them, or the first of those that the
                user named, counts the samples.
            targets: Those of the loss.

        Raises:
            FlatnessError: If the user named a tensor that is not there.
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
        """Return whether one of some layers has, or once had, other rows than samples.

        An expert sees the tokens that it is given: as many as a batch has samples by accident.

        Args:
            rows: How many rows each layer sees, by its name.
            n: Number of samples; 0 if nothing counts them.
        """
        self._loose.update(name for name, count in rows.items() if n and count != n)
        return not self._loose.isdisjoint(rows)

    def held(self, layout: Layout) -> frozenset[str]:
        """Return the paths of what may hold samples."""
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
