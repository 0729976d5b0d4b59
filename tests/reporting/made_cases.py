"""Writes small reconstructions: a shell with a lid, as `famseg reconstruct` leaves them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from famseg.files import write_json
from famseg.meshes import surface_mesh
from famseg.reconstruction import Outputs, Result, save_case

SIZE = 28


def make_case(
    folder: Path,
    name: str,
    confidence: float = 0.7,
    *,
    warnings: tuple[str, ...] = (),
    affine: np.ndarray | None = None,
    formats: tuple[str, ...] = ("stl",),
    factor: int = 1,
) -> Path:
    """Write a case whose implant is at the right, at the front and on top; return its folder.

    Args:
        folder: The output folder.
        name: Of the case.
        confidence: Its confidence.
        warnings: Its warnings.
        affine: Of the volumes, for axes to the right, front and top; 6 mm voxels if left out.
        formats: Of the meshes.
        factor: How many times finer the voxels are, in a grid as much larger.
    """
    grid = np.indices((SIZE * factor,) * 3) / factor
    distance = np.linalg.norm(grid - (SIZE - 1) / 2, axis=0)
    shell = (distance < 12) & (distance > 8.5)
    implant = shell & (grid > SIZE / 2 + 1).all(axis=0)
    affine = np.diag([6.0, 6.0, 6.0, 1.0]) if affine is None else affine
    affine = affine @ np.diag([1 / factor] * 3 + [1.0])
    agreement = np.full(shell.shape, 100, np.uint8)
    agreement[implant & (grid[2] > SIZE / 2 + 5)] = 65
    level = "low" if confidence < 0.6 else "fair" if confidence < 0.75 else "high"
    facts = {
        "name": name,
        "input": {"kind": "volume", "sha256": "ab" * 32, "spacing_mm": [6.0, 6.0, 6.0]},
        "model": {"name": "builtin", "sha256": "cd" * 32},
        "implant": {
            "volume_ml": 12.3 + confidence,
            "area_cm2": 45.6,
            "thickness_mm": {"min": 0.1, "p5": 2.1, "median": 7.8},
            "box_mm": [60.0, 61.0, 62.0],
        },
        "gap_mm": {"requested": 0.5, "min": 0.4, "p1": 0.45, "median": 0.55},
        "insertion": {"direction_ras": [-0.6, -0.6, -0.5], "undercut_mm3": 9.5},
        "defect": {"openings_cm2": [33.0], "where": ["front right"], "left_open_cm2": 0.0},
        "completed": {"asymmetry_mm": {"mean_mm": 1.1}},
        "confidence": {"value": confidence, "level": level},
        "warnings": list(warnings),
        "versions": {"famseg": "0.1.0"},
    }
    result = Result(
        completed=shell,
        implant=implant,
        agreement=agreement,
        affine=affine,
        implant_mesh=surface_mesh(implant, affine),
        skull_mesh=surface_mesh(shell & ~implant, affine),
        case=facts,
    )
    save_case(result, folder / name, Outputs(formats), facts=facts)
    return folder / name


def make_output(folder: Path, failed: dict[str, str] | None = None) -> None:
    """Write what an output folder says of its last call."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / "reconstruct.json",
        {
            "model": {"name": "builtin"},
            "options": {"gap_mm": 0.5},
            "outputs": {"formats": ["stl"]},
            "versions": {"famseg": "0.1.0"},
            "failed": failed or {},
        },
    )
