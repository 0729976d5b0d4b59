from __future__ import annotations

import numpy as np
import pytest
from solids import CT, Cap

from famseg.meshes import is_manifold, surface_mesh


def test_a_cap_at_ct_resolution() -> None:
    cap = Cap(angle=0.55)
    mask, affine = cap.grid(CT)
    mesh = surface_mesh(mask, affine)
    assert mesh.volume_mm3 == pytest.approx(mask.sum() * np.prod(CT), rel=5e-4)
    assert mesh.volume_mm3 == pytest.approx(cap.volume_mm3, rel=5e-3)
    assert cap.normal_deviation_deg(mesh).mean() < 1.2  # binary marching cubes: 32
    assert mesh.is_watertight
    assert is_manifold(mesh) == (True, "")
