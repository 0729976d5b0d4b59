from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from famseg.datasets import RegionDefect, inject, phantom
from famseg.messages import InputError
from famseg.preparation import Scan
from famseg.preparation.steps import bone_field
from famseg.reconstruction import Options, _reconstruct
from famseg.reconstruction._frame import Frame, fit_vault
from famseg.reconstruction._mirror import mirrored
from famseg.reconstruction._openings import find_openings
from famseg.reconstruction._symmetry import other_side, without_lone
from famseg.volumes import Volume

SPACING_MM = 3.5
AFFINE = np.diag([SPACING_MM] * 3 + [1.0])
FRAME = Frame(64, SPACING_MM, AFFINE)


@pytest.fixture(scope="module")
def orbit():
    """Return a skull with a defect at an orbit, its openings, and the implant."""
    whole = phantom(2, 0, 64) > 0
    spacing = (SPACING_MM,) * 3
    defect = RegionDefect("frontoorbital")
    holed = inject(whole.astype(np.uint8), defect, spacing, np.random.default_rng(3))[0] > 0
    return holed, find_openings(holed, FRAME, fit_vault(bone_field(whole, AFFINE))), whole & ~holed


@pytest.fixture(scope="module")
def other(orbit):
    """Return how the head of `orbit` is mirrored; found once."""
    return other_side(orbit[0], FRAME)


def test_below_the_vault_only_what_has_a_counterpart_near_an_opening_stays(orbit, other) -> None:
    holed, openings, implant = orbit
    probability = implant.astype(np.float32)
    kept = without_lone(probability, holed, openings, FRAME, 0.5, other) > 0.5
    assert (kept & implant).sum() > 0.97 * implant.sum()
    lone = probability.copy()
    low = int(openings.middle[2]) - 22
    lone[28:36, 2:5, low : low + 4] = 1.0  # far behind, its own counterpart
    found = without_lone(lone, holed, openings, FRAME, 0.5, other) > 0.5
    assert not (found & ~implant).any()


def test_what_one_side_lacks_does_not_stay_though_it_is_near_an_opening(orbit, other) -> None:
    holed, openings, implant = orbit
    hole = openings.found[0]
    up, around = np.deg2rad(-22), np.deg2rad(hole.azimuth_deg)
    ahead = np.array([np.cos(up) * np.sin(around), np.cos(up) * np.cos(around), np.sin(up)])
    assert abs(hole.azimuth_deg) > 10  # not on the midline
    x, y, z = np.rint(openings.middle + 33 * ahead).astype(int)  # before the face
    lone = implant.astype(np.float32)
    lone[x - 1 : x + 2, y - 1 : y + 2, z - 1 : z + 2] = 1.0
    found = without_lone(lone, holed, openings, FRAME, 0.5, other) > 0.5
    assert not (found & ~implant).any()


def test_what_is_missing_on_both_sides_stays_only_close_to_an_opening(orbit, other) -> None:
    holed, openings, implant = orbit
    pair = np.zeros(holed.shape, dtype=bool)
    places = np.moveaxis(np.indices(holed.shape), 0, -1) - openings.middle
    rays = places / np.linalg.norm(places, axis=-1, keepdims=True)
    large = openings.rays[openings.label == 0]
    off_deg = np.rad2deg(np.arccos(np.clip((rays.reshape(-1, 3) @ large.T).max(axis=1), -1, 1)))
    off_deg = off_deg.reshape(holed.shape)
    below = places[..., 2] < np.tan(np.deg2rad(-18)) * np.hypot(places[..., 0], places[..., 1])
    free = below & ~holed & (np.linalg.norm(places, axis=-1) < 24)  # within the head, of 84 mm
    pair = free & (off_deg > 13) & (off_deg < 18)
    turned = mirrored(holed, AFFINE, other(), AFFINE, holed.shape) > 0.5
    pair &= ~ndimage.binary_dilation(turned, iterations=2)
    assert pair.sum() > 20
    found = without_lone((implant | pair).astype(np.float32), holed, openings, FRAME, 0.5, other)
    assert not (found[pair & ~implant] > 0).any()


def test_above_nothing_changes(orbit, other) -> None:
    holed, openings, _ = orbit
    high = np.zeros(holed.shape, dtype=np.float32)
    high[30:34, 10:14, int(openings.middle[2]) + 5] = 1.0
    assert without_lone(high, holed, openings, FRAME, 0.5, other) is high


def test_a_defect_across_the_midline_is_its_own_counterpart() -> None:
    whole = phantom(2, 0, 64) > 0
    vault = fit_vault(bone_field(whole, AFFINE))
    places = np.moveaxis(np.indices(whole.shape), 0, -1) - find_openings(whole, FRAME, vault).middle
    up_deg = np.rad2deg(np.arctan2(places[..., 2], np.hypot(places[..., 0], places[..., 1])))
    ahead = np.abs(np.rad2deg(np.arctan2(places[..., 0], places[..., 1]))) < 22
    implant = whole & ahead & (up_deg > -24) & (up_deg < 15)
    holed = whole & ~implant
    low = implant & (up_deg < -16)
    assert low.sum() > 50  # missing on both sides: no bone is its counterpart
    openings, other = find_openings(holed, FRAME, vault), other_side(holed, FRAME)
    kept = without_lone(implant.astype(np.float32), holed, openings, FRAME, 0.5, other) > 0.5
    assert (kept & low).sum() > 0.95 * low.sum()


def test_what_has_a_counterpart_far_from_every_opening_does_not_stay(orbit, other) -> None:
    holed, openings, implant = orbit
    places = np.moveaxis(np.indices(holed.shape), 0, -1) - openings.middle
    rays = places / np.linalg.norm(places, axis=-1, keepdims=True)
    cosine = (rays.reshape(-1, 3) @ openings.rays[openings.label == 0].T).max(axis=1)
    far = cosine.reshape(holed.shape) < np.cos(np.deg2rad(30))
    below = places[..., 2] < np.tan(np.deg2rad(-18)) * np.hypot(places[..., 0], places[..., 1])
    bone = mirrored(holed, AFFINE, other(), AFFINE, holed.shape) > 0.5
    beside = bone & ~holed & below & far
    assert beside.sum() > 50
    probability = (implant | beside).astype(np.float32)
    found = without_lone(probability, holed, openings, FRAME, 0.5, other) > 0.5
    assert not (found & beside).any()


def test_network_and_refinement_are_told_the_same_other_side(orbit, monkeypatch) -> None:
    holed, _, implant = orbit
    told = []

    def lone(probability, *rest):
        told.append(rest[-1])
        return probability

    def end(skull, affine, coarse, *, threshold, other):
        told.append(other)
        raise InputError("far enough")

    monkeypatch.setattr(_reconstruct, "without_lone", lone)
    monkeypatch.setattr(_reconstruct, "refine", end)
    answer = implant.astype(np.float32), np.ones(holed.shape, dtype=np.float32), 0.9
    network = SimpleNamespace(
        size=64, spacing_mm=SPACING_MM, threshold=0.5, agreement=lambda seen: answer
    )
    scan = Scan(Volume(holed.view(np.uint8), AFFINE), "mask")
    with pytest.raises(InputError, match="far enough"):
        _reconstruct.reconstruct(scan, network, Options())  # type: ignore[arg-type]
    for_network, for_plates = told
    assert for_network is for_plates
    turn = for_plates()
    assert turn is for_network()  # registered once
    assert np.linalg.det(turn[:3, :3]) == pytest.approx(-1, abs=1e-6)
