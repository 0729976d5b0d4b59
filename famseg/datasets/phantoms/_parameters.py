"""Anatomical parameters of the skull phantom and the ranges they are drawn from."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from famseg.messages import InputError

HEAD_EXTENT_MM = 216.0
"""Largest possible extent of a phantom along any axis, including tilt and offset."""

_ADULT = "adult craniometric range"
_CT = "typical values in head CT"
_MODEL = "chosen so that phantoms vary in shape as much as unregistered real heads"


def _range(low: float, high: float, unit: str, source: str) -> Any:  # noqa: ANN401 - dataclass field
    return field(metadata={"low": low, "high": high, "unit": unit, "source": source})


@dataclass(frozen=True)
class PhantomParameters:
    """One subject's anatomy: each value is drawn uniformly from the range stated in its field.

    Lengths are in mm, angles in degrees; `ranges` lists low, high, unit and source of every
    parameter. ``waves`` holds the smooth asymmetric deformation of the whole head, one row per
    plane wave: direction and amplitude of the displacement, wave vector, phase.

    Example:
        >>> p = PhantomParameters.draw(np.random.default_rng(0))
        >>> 165 <= p.length_mm <= 200
        True
        >>> PhantomParameters.ranges()["breadth_mm"]
        (130.0, 160.0, 'mm', 'adult craniometric range')
    """

    length_mm: float = _range(165.0, 200.0, "mm", _ADULT)
    breadth_mm: float = _range(130.0, 160.0, "mm", _ADULT)
    height_mm: float = _range(120.0, 145.0, "mm", f"{_ADULT}, basion to vertex")
    thickness_mm: float = _range(4.5, 8.0, "mm", f"{_CT}: vault wall, both tables and diploe")
    thickness_variation: float = _range(0.15, 0.35, "1", f"{_CT}: wall thickness over its mean")
    table_share: float = _range(0.22, 0.32, "1", f"{_CT}: one compact table over the whole wall")
    occipital_thickening_mm: float = _range(1.0, 5.0, "mm", f"{_CT}: inion over the vault's mean")
    temporal_thinning: float = _range(0.2, 0.45, "1", f"{_CT}: squama thinner than the mean")
    frontal_narrowing: float = _range(
        0.14, 0.26, "1", f"{_ADULT}: frontal against parietal breadth"
    )
    squareness: float = _range(2.1, 2.7, "1", f"{_MODEL}: exponent of the vault's superellipse")
    widest_at: float = _range(-0.25, 0.0, "1", f"{_ADULT}: of half the length behind the middle")
    forehead_slope: float = _range(-0.05, 0.22, "1", f"{_ADULT}: lean of the frontal bone")
    occipital_bun: float = _range(0.0, 0.10, "1", f"{_ADULT}: bulge of the occiput over the radius")
    vertex_at: float = _range(-0.20, 0.10, "1", f"{_ADULT}: highest point, of half the length")
    base_depth: float = _range(0.90, 1.10, "1", f"{_MODEL}: depth of the cranial fossae")
    foramen_length_mm: float = _range(31.0, 40.0, "mm", f"{_ADULT}: foramen magnum")
    foramen_width_mm: float = _range(26.0, 34.0, "mm", f"{_ADULT}: foramen magnum")
    orbit_height_mm: float = _range(31.0, 37.0, "mm", _ADULT)
    orbit_width_mm: float = _range(36.0, 43.0, "mm", _ADULT)
    interorbital_mm: float = _range(18.0, 26.0, "mm", _ADULT)
    nasal_width_mm: float = _range(21.0, 27.0, "mm", f"{_ADULT}: piriform aperture")
    nasal_height_mm: float = _range(30.0, 38.0, "mm", f"{_ADULT}: piriform aperture")
    bizygomatic_mm: float = _range(120.0, 142.0, "mm", _ADULT)
    arch_radius_mm: float = _range(3.2, 5.0, "mm", f"{_CT}: half the height of the zygomatic arch")
    face_height_mm: float = _range(62.0, 78.0, "mm", f"{_ADULT}: nasion to the alveolar edge")
    prognathism_mm: float = _range(-5.0, 7.0, "mm", f"{_ADULT}: jaw before or behind the nasion")
    brow_mm: float = _range(3.0, 7.0, "mm", f"{_ADULT}: radius of the supraorbital ridge")
    mastoid_mm: float = _range(20.0, 32.0, "mm", f"{_ADULT}: length of the mastoid process")
    skew: float = _range(-0.05, 0.05, "1", f"{_MODEL}: one side further forward (plagiocephaly)")
    side_difference: float = _range(-0.04, 0.04, "1", f"{_MODEL}: right half wider than the left")
    pitch_deg: float = _range(-9.0, 9.0, "degree", "head position in the scanner")
    roll_deg: float = _range(-3.0, 3.0, "degree", "head position in the scanner")
    yaw_deg: float = _range(-3.0, 3.0, "degree", "head position in the scanner")
    offset_x_mm: float = _range(-2.0, 2.0, "mm", "centering of the scan")
    offset_y_mm: float = _range(-2.0, 2.0, "mm", "centering of the scan")
    offset_z_mm: float = _range(-2.0, 2.0, "mm", "centering of the scan")
    waves: NDArray[np.float64] = field(
        default_factory=lambda: np.zeros((0, 7)),
        metadata={
            "unit": "mm",
            "source": f"{_MODEL}: amplitude 1.0 to 2.5 mm, length 90 to 200 mm",
        },
    )

    @classmethod
    def draw(cls, rng: np.random.Generator) -> PhantomParameters:
        """Draw one subject.

        Args:
            rng: Random generator; the same state gives the same subject.

        Returns:
            Parameters inside the documented ranges.
        """
        values = {name: rng.uniform(low, high) for name, (low, high, *_) in cls.ranges().items()}
        return cls(**values, waves=_draw_waves(rng, count=6))

    @classmethod
    def ranges(cls) -> dict[str, tuple[float, float, str, str]]:
        """Return low, high, unit and source of each scalar parameter, in the order of drawing."""
        return {
            f.name: (
                f.metadata["low"],
                f.metadata["high"],
                f.metadata["unit"],
                f.metadata["source"],
            )
            for f in fields(cls)
            if "low" in f.metadata
        }

    def __post_init__(self) -> None:
        outside = [
            f"phantom: {name} {value:g} is outside {low:g} to {high:g} {unit}"
            for name, (low, high, unit, _) in self.ranges().items()
            if not low <= (value := getattr(self, name)) <= high
        ]
        if outside:
            raise InputError(*outside)


def _draw_waves(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Return plane waves of displacement, shape ``(count, 7)``: amplitude, wave vector, phase."""
    direction = rng.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    amplitude = rng.uniform(1.0, 2.5, size=(count, 1))
    heading = rng.normal(size=(count, 3))
    heading /= np.linalg.norm(heading, axis=1, keepdims=True)
    wave_number = 2 * np.pi / rng.uniform(90.0, 200.0, size=(count, 1))
    phase = rng.uniform(0.0, 2 * np.pi, size=(count, 1))
    return np.concatenate([amplitude * direction, wave_number * heading, phase], axis=1)
