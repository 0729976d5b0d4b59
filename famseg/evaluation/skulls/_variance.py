"""The variance ratio: the variance of outputs between cases, relative to the references."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import zip_longest

import numpy as np
import numpy.typing as npt
import torch

from famseg.engine import Processes


def variance_ratio(
    outputs: Iterable[npt.ArrayLike], truths: Iterable[npt.ArrayLike]
) -> float | None:
    """Return the variance of outputs across cases over that of the references, summed over voxels.

    At 1, the outputs vary as much as the references. At 0, the output is the same for every input,
    as for a network that has collapsed to the mean skull, whose Dice coefficient may still look
    good.

    Args:
        outputs: One array for each case, all of one shape: masks, or probabilities.
        truths: The reference masks of the same cases.

    Returns:
        The ratio; None for fewer than two cases or references that are all equal.

    Raises:
        ValueError: If shapes or the numbers of cases differ, or a value is not finite.

    Example:
        >>> truths = [np.eye(3) == 1, np.eye(3) == 0]
        >>> variance_ratio(truths, truths), variance_ratio([truths[0]] * 2, truths)
        (1.0, 0.0)
    """
    ratio = VarianceRatio()
    for output, truth in zip_longest(outputs, truths):
        if output is None or truth is None:
            raise ValueError("numbers of outputs and references differ: give one of each per case.")
        ratio.update(output, truth)
    return ratio.compute()


class VarianceRatio:
    """The streaming form of ``variance_ratio``: it stores two arrays for any number of cases.

    The variance over n cases, summed over the voxels v, is ``sum_v x_v^2 / n - sum_v mean_v^2``, so
    that only sums are stored. Sums of masks are integers, so their ratio is bit-identical in any
    order and on any number of processes.
    """

    def __init__(self) -> None:
        self.cases = 0
        self._output = _Sums()
        self._truth = _Sums()

    def update(self, output: npt.ArrayLike, truth: npt.ArrayLike) -> None:
        """Add a case.

        Args:
            output: Mask or probabilities.
            truth: The reference mask, same shape.

        Raises:
            ValueError: If the shape is not that of the other array or of the cases before, or a
                value is not finite.
        """
        one = np.asarray(output, dtype=np.float64)
        other = np.asarray(truth, dtype=np.float64)
        for name, array in (("output", one), ("truth", other)):
            if not np.all(np.isfinite(array)):
                raise ValueError(f"{name} contains NaN or infinity: its variance is undefined.")
        before = one.shape if self._output.values is None else self._output.values.shape
        if not one.shape == other.shape == before:
            raise ValueError(
                f"output {one.shape}, truth {other.shape} and the cases before {before} differ in "
                "shape. Bring them to one grid."
            )
        self._output.add(one)
        self._truth.add(other)
        self.cases += 1

    def compute(self) -> float | None:
        """Return the ratio; None for fewer than two cases or references that are all equal."""
        if self.cases < 2:
            return None
        truth = self._truth.variance(self.cases)
        return self._output.variance(self.cases) / truth if truth > 0 else None

    def gather(self, processes: Processes) -> None:
        """Add the cases of all ranks; every rank must call it, including those without cases.

        Args:
            processes: The ranks of the run.
        """
        if processes.world == 1:
            return
        shapes = processes.gather(
            None if self._output.values is None else self._output.values.shape
        )
        known = [shape for shape in shapes if shape is not None]
        if not known:
            return
        self.cases = sum(processes.gather(self.cases))
        self._output.gather(processes, known[0])
        self._truth.gather(processes, known[0])


class _Sums:
    """Sums over cases of the values at each voxel, and of all squares."""

    def __init__(self) -> None:
        self.values: npt.NDArray[np.float64] | None = None
        self.squares = 0.0

    def add(self, array: npt.NDArray[np.float64]) -> None:
        self.values = array.copy() if self.values is None else self.values + array
        self.squares += float(np.square(array).sum())

    def variance(self, cases: int) -> float:
        """Return the variance summed over the voxels, at least 0 despite rounding."""
        if self.values is None:
            return 0.0
        return max(0.0, self.squares / cases - float(np.square(self.values / cases).sum()))

    def gather(self, processes: Processes, shape: tuple[int, ...]) -> None:
        values = np.zeros(shape) if self.values is None else self.values
        # Sending the pickled arrays of all ranks to all others would need a multiple of the memory.
        self.values = processes.add(torch.from_numpy(values)).numpy()
        self.squares = math.fsum(processes.gather(self.squares))
