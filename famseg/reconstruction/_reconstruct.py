"""Completion of the skull in a scan, with the design of the implant."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from famseg.messages import InputError
from famseg.preparation import Scan, Settings
from famseg.preparation.steps import bone_field
from famseg.reconstruction._case import asymmetry, confidence_level, held_at_orbit, rounded
from famseg.reconstruction._check import back_to_front, check_upright
from famseg.reconstruction._coarse import CoarseNetwork
from famseg.reconstruction._fit import fit
from famseg.reconstruction._frame import Frame, Vault, fit_vault, place_frame
from famseg.reconstruction._measure import implant_fit, implant_shape, skull_surface
from famseg.reconstruction._openings import (
    SMALLEST_CM2,
    Openings,
    find_openings,
    hold_against,
)
from famseg.reconstruction._refine import refine
from famseg.reconstruction._save import Result
from famseg.reconstruction._skull import Skull, read_skull
from famseg.reconstruction._symmetry import other_side, without_lone
from famseg.reconstruction._threads import one_thread

Stage = Callable[[str], None]
"""Called with the next step."""

STAGES = ("reading", "finding bone", "network", "refining", "fitting", "meshes", "writing")

BONE_SHARE = 0.4
"""Share of a voxel of the network's frame from which on it is bone: thin walls stay closed."""

_SLAB = 16
_AROUND_VOXELS = 2  # of the network's frame

SMALLEST_ML = 0.5
"""Smaller predictions are not implants: the network took an anatomical gap for a defect."""


@dataclass(frozen=True)
class Options:
    """Options of a reconstruction.

    Args:
        gap_mm: Gap between implant and bone.
        min_thickness_mm: Minimum thickness of the implant; if it cannot be reached, there is a
            warning.
        threshold_hu: Threshold of bone in CT scans.
        threshold: The same for scans without HU; None finds it by Otsu's method.
        remove_undercut: Remove parts of the implant that bone blocks on insertion.
        label: Labels of the skull in label maps, as in `famseg.preparation.Settings`.

    Raises:
        InputError: If a number is out of range; one line each.
    """

    gap_mm: float = 0.5
    min_thickness_mm: float = 2.0
    threshold_hu: float = 226.0
    threshold: float | None = None
    remove_undercut: bool = True
    label: str | None = None

    def __post_init__(self) -> None:
        bounds = {"gap_mm": (0.0, 5.0), "min_thickness_mm": (0.0, 10.0)}
        faults = [
            f"--{name.removesuffix('_mm').replace('_', '-')} {getattr(self, name):g}: give "
            f"{low:g} to {high:g} mm"
            for name, (low, high) in bounds.items()
            if not (math.isfinite(getattr(self, name)) and low <= getattr(self, name) <= high)
        ]
        if faults:
            raise InputError(*faults)

    def settings(self) -> Settings:
        """Return how bone is found: as `famseg prepare` does by default."""
        return Settings(threshold_hu=self.threshold_hu, threshold=self.threshold, label=self.label)


@one_thread()
def reconstruct(
    scan: Scan, network: CoarseNetwork, options: Options, *, stage: Stage = lambda _: None
) -> Result:
    """Complete the skull of a scan and design its implant.

    Bone is segmented as by ``famseg prepare``, in the voxels of the scan (`read_skull`). The
    network receives it in a frame over the vault (`place_frame`); its prediction is resampled to
    the scan, refined at the scan's resolution (`refine`) and fitted to the bone (`fit`). Nothing is
    random, and it runs on one thread: the same scan, network and options give the same bytes.

    Args:
        scan: A defective skull or a CT of one.
        network: From `load_network`.
        options: The choices of the user.
        stage: Called with one of `STAGES` at the beginning of each.

    Returns:
        Volumes in the voxels of the scan, meshes in mm of its world, and their measures. A
        CT of 512 x 512 x 250 voxels takes under a minute of one core and 2.5 GB.

    Raises:
        InputError: If there is no skull, its vault is cut off, or no defect is found in it.
    """
    # Long because it is the sequence of all steps, each of which uses results of earlier ones.
    stage("finding bone")
    skull = read_skull(scan, options.settings())
    vault = fit_vault(skull.field)
    check_upright(vault, skull.field)
    frame = place_frame(vault, size=network.size, spacing_mm=network.spacing_mm)
    share = frame.shares(skull.field)
    seen = share > BONE_SHARE
    stage("network")
    openings = find_openings(seen, frame, vault)
    if not openings.total_cm2:
        raise InputError(_whole(openings))
    probability, agree, confidence = network.agreement(seen)
    other = other_side(seen, frame)
    probability = without_lone(probability, seen, openings, frame, network.threshold, other)
    checked = hold_against(probability, openings, frame, network.threshold)
    shape = skull.mask.shape
    near = _near(checked.probability, network.threshold)
    coarse = frame.to_grid(near, skull.affine, (shape[0], shape[1], shape[2]))
    stage("refining")
    refined = refine(skull.mask, skull.affine, coarse, threshold=network.threshold, other=other)
    stage("fitting")
    fitted = fit(
        refined.implant,
        skull.mask,
        skull.affine,
        gap_mm=options.gap_mm,
        min_thickness_mm=options.min_thickness_mm,
        remove_undercut=options.remove_undercut,
    )
    implant = np.asarray(fitted.mask & ~skull.bone)
    if np.count_nonzero(implant) * np.prod(skull.spacing_mm) < 1000 * SMALLEST_ML:
        raise InputError(
            f"the implant is smaller than {SMALLEST_ML:g} ml, as natural gaps are: is the skull "
            "intact, or its defect outside the vault?"
        )
    stage("meshes")
    skull_mesh = skull_surface(skull.mask, skull.affine)
    facts = _facts(scan, skull, vault, frame)
    facts["implant"] = implant_shape(fitted)
    facts |= implant_fit(fitted, options.gap_mm)
    completed = skull.mask | implant
    share += frame.shares(bone_field(implant, skull.affine))
    left = find_openings(share > BONE_SHARE, frame, vault)
    facts["defect"] = {
        "openings_cm2": [h.area_cm2 for h in openings.found if h.area_cm2 >= SMALLEST_CM2],
        "where": [h.where for h in openings.found if h.area_cm2 >= SMALLEST_CM2],
        "left_open_cm2": left.total_cm2,
        "added_cm2": checked.added_cm2,
        "dropped_ml": checked.dropped_ml,
    }
    facts["completed"] = {"asymmetry_mm": asymmetry(completed, skull.affine, vault)._asdict()}
    confidence = held_at_orbit(confidence, refined.method)
    facts["confidence"] = {"value": confidence, "level": confidence_level(confidence)}
    facts["method"] = list(refined.method)
    facts["warnings"] = [
        *back_to_front(vault, seen, frame.affine),
        *_warnings(facts, network, skull.beyond_scan(implant)),
        *refined.warnings,
        *fitted.warnings,
        *skull.notes,
    ]
    in_scan = skull.to_scan(implant)
    return Result(
        completed=skull.scan_bone | in_scan,
        implant=in_scan,
        agreement=_percent_in_scan(skull, frame, agree),
        affine=skull.scan_affine,
        implant_mesh=fitted.mesh,
        skull_mesh=skull_mesh,
        case=rounded(facts, 6),
    )


def _warnings(facts: Mapping[str, Any], network: CoarseNetwork, beyond: int) -> list[str]:
    """Return the warnings of a case, the most important first."""
    warnings = []
    value, level = facts["confidence"]["value"], facts["confidence"]["level"]
    if level == "low":
        warnings.append(
            f"LOW CONFIDENCE ({value:.2f}): cases like this one had a Dice coefficient of about "
            "that; do not rely on the implant."
        )
    if not network.calibrated:
        warnings.append("Threshold and confidence of this model were never calibrated.")
    defect = facts["defect"]
    if defect["left_open_cm2"]:
        warnings.append(f"{defect['left_open_cm2']:.0f} cm² of the vault stay open.")
    if defect["added_cm2"] >= 1:
        warnings.append(
            f"The network left {defect['added_cm2']:.0f} cm² of the opening empty: there the wall "
            "around it was continued."
        )
    if defect["dropped_ml"] >= SMALLEST_ML:
        warnings.append(
            f"{defect['dropped_ml']:.1f} ml of the prediction are not behind an opening of the "
            "vault and were left out."
        )
    if beyond:
        warnings.append(
            f"The implant reaches beyond the scan: {beyond} of its voxels are only in the meshes."
        )
    return warnings


def _facts(scan: Scan, skull: Skull, vault: Vault, frame: Frame) -> dict[str, Any]:
    """Return the facts about the input and its position in the frame of the network."""
    return {
        "input": {
            "values": scan.kind,
            "shape": list(scan.volume.array.shape),
            "spacing_mm": list(scan.volume.spacing_mm),
            "affine_ras": scan.volume.affine,
            "bone_ml": np.count_nonzero(skull.mask) * float(np.prod(skull.spacing_mm)) / 1000,
        },
        "frame": {
            "size": frame.size,
            "spacing_mm": frame.spacing_mm,
            "affine_ras": frame.affine,
            "vault_middle_ras_mm": vault.middle_mm,
            "vault_half_axes_mm": vault.half_axes_mm,
        },
    }


def network_sha256(network: CoarseNetwork) -> str:
    """Return a hash of everything that determines the predictions of a network."""
    digest = hashlib.sha256()
    for name, value in sorted(network.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(value.detach().cpu().float().numpy()).tobytes())
    settings = (network.size, network.spacing_mm, network.threshold, network.output, network.layer)
    digest.update(repr((settings, network.curve.record())).encode())
    return digest.hexdigest()


def _whole(openings: Openings) -> str:
    largest = f"{openings.found[0].area_cm2:.1f}" if openings.found else "0"
    return (
        f"no defect was found: the vault is whole (its largest opening has {largest} cm², a defect "
        f"{SMALLEST_CM2:g} or more), so there is nothing to reconstruct"
    )


def _near(probability: NDArray[np.float32], threshold: float) -> NDArray[np.float32]:
    """Return a probability without what is far from all that is predicted.

    Surfaces are between voxels above and below the threshold, and the rest need not be resampled.
    """
    near = ndimage.maximum_filter(probability, 2 * _AROUND_VOXELS + 1) >= threshold
    if not near.any():
        return probability
    return np.where(near, probability, np.float32(0))


def _percent_in_scan(skull: Skull, frame: Frame, agree: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the agreement in the voxels of the scan; all agree on what they do not look at."""
    shape = skull.scan_bone.shape
    percent = np.full(shape, 100, dtype=np.uint8, order="F")  # as it is written
    box = frame.box_in_grid(agree < 1, skull.scan_affine, (shape[0], shape[1], shape[2]))
    for start in range(box[0].start, box[0].stop, _SLAB):  # no second volume in floating point
        part = (slice(start, min(start + _SLAB, box[0].stop)), *box[1:])
        affine = skull.scan_affine.copy()
        affine[:3, 3] += affine[:3, :3] @ [side.start for side in part]
        slab = percent[part]
        against = frame.to_grid(1 - agree, affine, (slab.shape[0], slab.shape[1], slab.shape[2]))
        slab[:] = np.round(100 * (1 - against))
    return percent
