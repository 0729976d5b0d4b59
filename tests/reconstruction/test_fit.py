from __future__ import annotations

import numpy as np
import pytest
import shells
from scipy import ndimage

from famseg.meshes import surface_mesh, thickness_mm, voxelize
from famseg.messages import InputError
from famseg.metrics import dice
from famseg.reconstruction import _fit, fit, step_mm
from famseg.reconstruction._flush import Step, not_flush
from famseg.reconstruction._slivers import without_slivers
from famseg.reconstruction._thicken import thickened

SPACING = (2.5, 2.5, 2.5)
TOWARD = (0.9, 0.2, 0.6)


def case(deg=16.0, spacing=SPACING):
    shape, affine = shells.grid(spacing)
    where = shells.points(shape, affine)
    whole, region = shells.shell(where), shells.hole(where, TOWARD, deg)
    return whole & ~region, affine, whole & region, where


@pytest.mark.slow
def test_an_implant_keeps_its_gap_and_mesh_and_mask_agree():
    skull, affine, implant, _ = case()
    fitted = fit(implant, skull, affine, gap_mm=0.6)
    assert not (fitted.mask & skull).any()
    assert fitted.mesh.is_watertight
    assert fitted.gap.p1_mm >= 0.5
    assert fitted.gap.median_mm < 0.9
    assert (fitted.mask == (voxelize(fitted.mesh, skull.shape, affine) & ~skull)).all()
    assert dice(fitted.mask, implant) > 0.9
    (step,) = fitted.step
    assert step is not None
    assert abs(step.median_mm) < 0.7  # voxels of 2.5 mm
    assert fitted.direction @ np.array(TOWARD) < -0.9
    assert fitted.undercut_mm3 < 0.01 * fitted.mesh.volume_mm3
    assert fitted.warnings == ()


def test_films_on_bone_and_fillings_of_bone_are_no_implant():
    skull, _, implant, where = case()
    film = ndimage.binary_dilation(skull) & ~skull & ~implant
    film &= np.linalg.norm(where / shells.OUTER_MM, axis=-1) > 1  # on the outer surface
    film &= ~ndimage.binary_dilation(implant, iterations=3)
    pore = np.zeros_like(skull)
    pore[tuple(np.argwhere(skull & ~ndimage.binary_dilation(implant, iterations=3))[500])] = True
    found = without_slivers(implant | film | pore, skull & ~pore)
    assert film.sum() > 500
    assert not (found & (film | pore)).any()
    assert (found & implant).sum() >= 0.99 * implant.sum()


def test_a_thin_implant_keeps_its_rim():
    skull, _, implant, where = case()
    thin = implant & (np.linalg.norm(where / shells.OUTER_MM, axis=-1) > 0.965)  # a voxel thick
    assert without_slivers(thin, skull).sum() >= 0.97 * thin.sum()


def test_a_thin_implant_grows_inwards_alone():
    skull, affine, implant, where = case()
    depth = np.linalg.norm(where / shells.OUTER_MM, axis=-1)
    thin = implant & (depth > 0.965)
    origin = np.zeros(3)
    grown, notes = thickened(thin, skull, affine, origin, 6.0)
    assert "thickened on the inner side" in notes[0]
    added = grown & ~thin
    assert added.any()
    assert not (added & skull).any()
    assert depth[added].max() <= depth[thin].max()
    assert dice(grown, implant) > dice(thin, implant) + 0.15
    assert np.percentile(thickness_mm(grown, affine, samples=300), 50) > 5.0
    same, none = thickened(implant, skull, affine, origin, 0.0)
    assert same is implant
    assert none == []


def test_a_step_at_the_outline_is_measured():
    skull, affine, implant, where = case(deg=24)
    (flush,) = step_mm(implant, skull, affine)
    assert flush is not None
    assert abs(flush.median_mm) < 0.5
    raised = (shells.shell(where * (1 - 3 / 75)) & shells.hole(where, TOWARD, 24)) & ~skull
    (step,) = step_mm(raised, skull, affine)
    assert step is not None
    assert step.median_mm == pytest.approx(3.0, abs=0.8)
    assert step.p95_mm > 2.5
    edge = SPACING[0]
    assert not_flush([flush], edge) == []
    (said,) = not_flush([step, flush], edge)
    assert f"surface of piece 1 is {step.median_mm:.1f} mm above" in said


def test_an_implant_that_stands_out_of_the_skull_has_a_warning(monkeypatch):
    # Gap and way in are of no interest here, and take seconds.
    way = (np.array([0.0, 0.0, -1.0]), 0.0)
    monkeypatch.setattr(_fit, "insertion_direction", lambda *_: way)
    monkeypatch.setattr(_fit, "_mesh", lambda own, bone, place, *_: surface_mesh(own, place))
    skull, affine, _, where = case(deg=20, spacing=(4.0, 4.0, 4.0))  # coarse: quick
    raised = (shells.shell(where * (1 - 5 / 75)) & shells.hole(where, TOWARD, 20)) & ~skull
    fitted = fit(raised, skull, affine)
    (step,) = fitted.step
    assert step is not None
    assert "NOT FLUSH" in fitted.warnings[0]
    assert f"is {step.median_mm:.1f} mm above" in fitted.warnings[0]


def test_an_uneven_rim_is_not_flush_though_its_median_is():
    (said,) = not_flush([Step(0.2, 4.1, 160)], 1.0)
    assert "95th percentile of the absolute step: 4.1 mm" in said
    (said,) = not_flush([Step(-1.7, 2.0, 160)], 1.0)
    assert "is 1.7 mm below" in said
    assert not_flush([Step(-1.7, 2.0, 160), None], 3.5) == []  # within half a voxel


def test_an_implant_that_is_nothing_is_refused():
    skull, affine, implant, _ = case()
    with pytest.raises(InputError, match="the implant is empty: there is nothing to fit"):
        fit(np.zeros_like(implant), skull, affine)
    with pytest.raises(InputError, match="gap_mm and min_thickness_mm must be 0 or more"):
        fit(implant, skull, affine, gap_mm=-1.0)
    one = np.zeros_like(implant)
    inside = np.argwhere(ndimage.binary_erosion(skull))[3]
    one[tuple(inside)] = True
    with pytest.raises(InputError, match="films on intact bone"):
        fit(one, skull & ~one, affine)


def test_an_implant_with_a_thin_edge_has_a_warning_with_its_thickness():
    thick = np.full(1000, 2.5)
    thick[:4] = 0.11
    (said,) = _fit._too_thin(thick, 2.0)
    assert (
        "thinner than the 2 mm that were asked for on 0.4% of its surface, down to 0.1 mm" in said
    )
    thick[:4] = 1.75  # samples of a mesh are never all right
    assert _fit._too_thin(thick, 2.0) == []
    thick[:100] = 1.2
    (said,) = _fit._too_thin(thick, 2.0)
    assert "on 10% of its surface (5th percentile 1.2 mm, thinnest place 1.2 mm)" in said
    assert _fit._too_thin(thick, 0.0) == []
