"""An implant without learning, by thin plates across a given outline."""

from __future__ import annotations

import numpy as np

from famseg.reconstruction._chart import Array, Mask, vault_middle_mm
from famseg.reconstruction._check import check_volumes
from famseg.reconstruction._lay import lay
from famseg.reconstruction._outline import pieces_of
from famseg.reconstruction._threads import one_thread


@one_thread()
def plate(skull: Mask, affine: Array, outline: Mask) -> Mask:
    """Return the implant that continues the bone around a defect, without learning.

    Both surfaces of the wall are measured around the outline and continued across it, each as a
    thin plate on an equal-area map, at the scan's own resolution. Takes 0.2 processor seconds at
    128^3. This is true for the vault; around an orbit the wall is not a height field, and the
    result is poor.

    Args:
        skull: The skull with the defect, bool, shape ``(X, Y, Z)``; any spacing and orientation.
        affine: Maps voxel indices to RAS+ mm, shape ``(4, 4)``.
        outline: The region of the defect, bool, same shape, one or several pieces; accurate to
            about a voxel. It may or may not contain bone next to and behind the wall.

    Returns:
        The implant, bool, same shape; it shares no voxel with the skull. Empty for an empty
        outline.

    Raises:
        InputError: If the masks do not fit together, the skull is empty, hardly any wall lies
            around the defect, or the scan's border cuts it off.
    """
    check_volumes(skull, affine, outline=outline)
    origin = vault_middle_mm(skull, affine)
    longest = float(np.linalg.norm(affine[:3, :3], axis=0).max())
    implant = np.zeros(skull.shape, dtype=bool)
    for piece in pieces_of(outline, affine)[0]:
        box, mask = lay(skull, affine, origin, piece, snap_mm=longest).implant(skull)
        implant[box] |= mask
    return implant
