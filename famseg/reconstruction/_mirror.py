"""The plane of symmetry of a head, and the bone of its mirror image."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import SimpleITK
from scipy import ndimage

Mask = npt.NDArray[np.bool_]
Affine = npt.NDArray[np.float64]

# Smoothing of the masks, wide enough that displaced walls of a few mm still overlap.
_SMOOTHING_MM = 3.0
_STEPS = 60


def mirror(skull: Mask, affine: Affine) -> Mask:
    """Return a skull reflected in its plane of symmetry.

    The image is reflected along its left-right axis and registered rigidly to itself (mean squared
    difference of smoothed masks), because a head is never exactly straight in a scan. A defect of a
    tenth of the vault hardly moves the plane. About 0.4 s at 64^3, the same on every machine with
    the same SimpleITK.

    Args:
        skull: The defective skull, a mask of shape ``(X, Y, Z)``.
        affine: From voxels to mm, ``(4, 4)``, left to right along x.

    Returns:
        Bone of the reflected skull on the same grid.
    """
    if not skull.any():
        return np.zeros_like(skull)
    return np.asarray(mirrored(skull, affine, reflection(skull, affine), affine, skull.shape) > 0.5)


def reflection(skull: Mask, affine: Affine) -> Affine:
    """Return the matrix that maps points in mm to their counterparts on the head's other side.

    See `mirror` for how it is found.

    Args:
        skull: The defective skull, not empty.
        affine: From voxels to mm, ``(4, 4)``, left to right along x.
    """
    axis = int(np.abs(affine[0, :3]).argmax())
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    smooth = ndimage.gaussian_filter(skull.astype(np.float32), _SMOOTHING_MM / spacing)
    turn = _register(_image(smooth, spacing), _image(np.flip(smooth, axis), spacing))
    corners = np.array(
        [turn.TransformPoint(point) for point in np.vstack([np.zeros(3), np.eye(3)])]
    )
    motion, flip = np.eye(4), np.eye(4)
    motion[:3, :3], motion[:3, 3] = (corners[1:] - corners[0]).T, corners[0]
    flip[axis, axis], flip[axis, 3] = -1, skull.shape[axis] - 1
    scale = np.diag([*spacing, 1.0])
    inside = flip @ np.linalg.inv(scale) @ motion @ scale  # in voxel coordinates
    return np.asarray(affine @ inside @ np.linalg.inv(affine), dtype=np.float64)


def mirrored(
    skull: Mask, affine: Affine, turn: Affine, to: Affine, shape: tuple[int, ...]
) -> npt.NDArray[np.float32]:
    """Return the bone of a head's mirror image on a grid, 0 to 1.

    Args:
        skull: The skull.
        affine: Maps its voxels to mm.
        turn: Matrix from `reflection`.
        to: Maps voxels of the grid to mm.
        shape: Shape of the grid.
    """
    place = np.linalg.inv(affine) @ turn @ to
    return np.asarray(
        ndimage.affine_transform(
            skull.view(np.uint8),
            place[:3, :3],
            offset=place[:3, 3],
            output_shape=shape,
            output=np.float32,
            order=1,
        )
    )


def _image(array: npt.NDArray[np.generic], spacing: npt.NDArray[np.float64]) -> SimpleITK.Image:
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    image.SetSpacing(spacing.tolist())
    return image


def _register(fixed: SimpleITK.Image, moving: SimpleITK.Image) -> SimpleITK.Transform:
    """Return the rigid motion that aligns one image to the other, initialized by moments.

    It uses one thread, since sums depend on the number of threads.
    """
    start = SimpleITK.CenteredTransformInitializer(
        fixed,
        moving,
        SimpleITK.Euler3DTransform(),
        SimpleITK.CenteredTransformInitializerFilter.MOMENTS,
    )
    method = SimpleITK.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsMeanSquares()
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetInterpolator(SimpleITK.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=2.0, minStep=0.01, numberOfIterations=_STEPS
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(start, inPlace=False)
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([0.0, 0.0])
    return method.Execute(fixed, moving)
