"""The coarse network of a reconstruction, from a run, a checkpoint or a packaged model.

Its input is a defective skull in a frame: a cube of ``size`` voxels of ``spacing_mm`` with axes to
the right, the front and the top. The head is centered from left to right and from front to back,
with its topmost bone at 0.82 to 0.97 of the height of the cube.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from monai.networks.utils import eval_mode
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from famseg.reconstruction._confidence import Curve, Probability, agreement_of

SHIFTS = ((0, 0, 0), (1, 1, 0), (0, 1, 1), (1, 0, 1))
"""Shifts of the skull in voxels, one prediction each; together all phases of a stride of two."""

SMALLEST_PIECE = 0.2  # smallest volume of a piece, as a share of the largest piece of an implant
_NOISY = 4  # number of predictions with noise on the features
NEVER = -30.0  # logit outside the frame
_NOISE = 0.2  # standard deviation of the noise relative to the root mean square of the features


@dataclass(frozen=True, eq=False)
class CoarseNetwork:
    """A trained network that predicts the implant of a defective skull in its frame.

    Args:
        model: The network; maps ``(n, 1, S, S, S)``, 0 and 1, to logits of the same shape.
        size: Voxels along each edge of the frame.
        spacing_mm: Edge of a voxel in mm.
        threshold: Probability above which a voxel belongs to the implant.
        name: The name of the model.
        device: The device of the computation.
        output: The meaning of the logits: the ``implant``, or the completed ``skull``, whose
            bone outside the input is the implant.
        layer: Name of the layer whose input gets noise in `agreement`, the penalized one.
        curve: Maps the agreement to the expected implant DSC.
        calibrated: Whether threshold and curve were determined on validation cases.
        card: The model card, in JSON types.
        seed: Seed of the noise in `agreement`.
    """

    model: nn.Module
    size: int
    spacing_mm: float
    threshold: float
    name: str
    device: torch.device
    output: Literal["implant", "skull"] = "implant"
    layer: str = "head"
    curve: Curve = field(default_factory=Curve)
    calibrated: bool = False
    card: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def predict(self, volume: NDArray[np.bool_]) -> Probability:
        """Return the probability that a voxel belongs to the implant.

        It is the mean of eight predictions: of the skull and its mirror image, each unshifted and
        with three shifts of one voxel along two axes. Takes 0.4 s of one core with the built-in
        model.

        Args:
            volume: The defective skull in the frame, shape ``(S, S, S)``.

        Returns:
            float32 of the same shape, 0 where the skull is.

        Raises:
            ValueError: If the volume has another shape.
        """
        predictions = self._predictions(volume)
        return np.asarray(np.mean(predictions, axis=0), dtype=np.float32)

    def agreement(self, volume: NDArray[np.bool_]) -> tuple[Probability, Probability, float]:
        """Return probability, agreement map and confidence of an implant.

        In addition to the eight predictions of `predict`, there are four with noise on the features
        of the penalized layer, with a standard deviation of a fifth of their root mean square. They
        agree where the loss is flat in that layer's weights. Takes 1.5 times as long as `predict`.

        Args:
            volume: The defective skull in the frame, shape ``(S, S, S)``.

        Returns:
            The probability as in `predict`; for each voxel the share of the twelve predictions that
            agree with it; the confidence, which is the implant DSC that validation cases of this
            agreement had (without a calibration the agreement itself), 0 for an empty implant.

        Raises:
            ValueError: If the volume has another shape.
        """
        probability, agree, number = self._agreement(volume)
        empty = not ((probability > self.threshold) & ~volume).any()
        return probability, agree, 0.0 if empty else self.curve(number)

    def raw_agreement(self, volume: NDArray[np.bool_]) -> tuple[Probability, float]:
        """Return the probability and the agreement, which the curve maps to a confidence."""
        probability, _, number = self._agreement(volume)
        return probability, number

    def _agreement(self, volume: NDArray[np.bool_]) -> tuple[Probability, Probability, float]:
        plain = self._predictions(volume)
        probability = np.asarray(np.mean(plain, axis=0), dtype=np.float32)
        predictions = [*plain, *self._noisy_predictions(volume)]
        return probability, *agreement_of(predictions, volume, self.threshold)[1:]

    def implant(self, volume: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the predicted implant in the frame, which shares no voxel with the skull."""
        return self.implant_of(self.predict(volume), volume)

    def implant_of(self, probability: Probability, volume: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the implant of a probability: its large pieces.

        Pieces smaller than a fifth of the largest are removed, since networks also fill natural
        foramina that their training heads did not have. The pieces of a bilateral defect are of
        similar size.
        """
        mask = np.asarray((probability > self.threshold) & ~volume)
        pieces, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
        if count > 1:
            sizes = np.bincount(pieces.ravel())
            sizes[0] = 0
            mask &= (sizes >= SMALLEST_PIECE * sizes.max())[pieces]
        return mask

    def _predictions(self, volume: NDArray[np.bool_]) -> list[Probability]:
        skull = self._tensor(volume)
        predictions = []
        with torch.no_grad(), eval_mode(self.model):
            for shift in SHIFTS:
                back = tuple(-step for step in shift)
                for flip in (False, True):
                    logits = self._logits(_shifted(skull, shift), flip=flip)
                    predictions.append(self._probability(_shifted(logits, back, NEVER), volume))
        return predictions

    def _noisy_predictions(self, volume: NDArray[np.bool_]) -> list[Probability]:
        skull = self._tensor(volume)
        with torch.no_grad(), eval_mode(self.model), _noise(self.model, self.layer, self.seed):
            flips = (bool(k % 2) for k in range(_NOISY))
            return [self._probability(self._logits(skull, flip=f), volume) for f in flips]

    def _logits(self, skull: Tensor, *, flip: bool) -> Tensor:
        logits: Tensor = self.model(skull.flip(2)).flip(2) if flip else self.model(skull)
        return logits

    def _tensor(self, volume: NDArray[np.bool_]) -> Tensor:
        if volume.shape != (self.size,) * 3:
            raise ValueError(
                f"{self.name} takes a cube of {self.size} voxels of {self.spacing_mm:g} mm, got "
                f"{volume.shape}. Resample the skull into the model's frame."
            )
        skull = torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32))
        return skull[None, None].to(self.device)

    def _probability(self, logits: Tensor, volume: NDArray[np.bool_]) -> Probability:
        """Return the probability of the implant, 0 where the skull is."""
        probability: Probability = logits[0, 0].float().sigmoid().cpu().numpy()
        probability[volume] = 0
        return probability


@contextmanager
def _noise(model: nn.Module, layer: str, seed: int) -> Iterator[None]:
    """Add noise to the input of a layer, with the same sequence in every call."""
    generator = torch.Generator().manual_seed(seed)

    def disturb(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        features = inputs[0]
        noise = torch.randn(features.shape, generator=generator).to(features)
        return (features + _NOISE * features.square().mean().sqrt() * noise, *inputs[1:])

    hook = model.get_submodule(layer).register_forward_pre_hook(disturb)
    try:
        yield
    finally:
        hook.remove()


def _shifted(volume: Tensor, shift: tuple[int, ...], fill: float = 0.0) -> Tensor:
    """Shift a volume by whole voxels, filling the border with ``fill``."""
    moved = torch.full_like(volume, fill)
    to: Any = [...]
    of: Any = [...]
    for step, edge in zip(shift, volume.shape[2:], strict=True):
        to.append(slice(max(step, 0), edge + min(step, 0)))
        of.append(slice(max(-step, 0), edge - max(step, 0)))
    moved[tuple(to)] = volume[tuple(of)]
    return moved
