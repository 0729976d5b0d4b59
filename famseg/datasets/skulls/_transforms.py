"""MONAI transforms for preparing skull volumes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from monai.data import ImageReader, MetaTensor
from monai.transforms import MapTransform, SpatialResample
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from famseg.messages import InputError
from famseg.volumes import Volume, read_volume, volume_suffix

Fit = Literal["pad", "resize"]
Center = Literal["head", "keep"]
_BORDER = 1  # free voxels around a head that is resized to the grid
_SAME_SPACING = 1e-3  # relative tolerance below which a volume already has the grid's spacing


class VolumeReader(ImageReader):  # type: ignore[misc]  # MONAI ships no types
    """`read_volume` as a MONAI reader, used by `LoadVolumed`."""

    def verify_suffix(self, filename: Sequence[str | Path] | str | Path) -> bool:
        """Return whether every file has a suffix that `read_volume` supports."""
        names = [filename] if isinstance(filename, (str, Path)) else list(filename)
        return all(volume_suffix(Path(name)) is not None for name in names)

    def read(self, data: Sequence[str | Path] | str | Path, **_: object) -> Volume:
        """Read one file."""
        if not isinstance(data, (str, Path)):
            if len(data) != 1:
                raise InputError(f"{len(data)} files given for one volume: give one")
            data = data[0]
        return read_volume(data)

    def get_data(self, img: Volume) -> tuple[NDArray[Any], dict[str, Any]]:
        """Return the array and MONAI's metadata (RAS+ affine)."""
        meta = {
            "affine": img.affine,
            "original_affine": img.affine.copy(),
            "spatial_shape": np.asarray(img.array.shape),
            "original_channel_dim": "no_channel",
            "space": "RAS",
        }
        return img.array, meta


class LoadVolumed(MapTransform):  # type: ignore[misc]
    """Load volumes only with `VolumeReader`.

    If the given reader refuses a file, MONAI's ``LoadImaged(reader=...)`` tries its own readers,
    which read damaged files silently. It also creates all of its readers, some of which print
    warnings.

    Args:
        keys: Keys of the paths.
    """

    def __init__(self, keys: Hashable | Sequence[Hashable]) -> None:
        super().__init__(keys)
        self._reader = VolumeReader()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Load each file as float32, shape ``(X, Y, Z)``."""
        result = dict(data)
        for key in self.key_iterator(result):
            path = result[key]
            array, meta = self._reader.get_data(self._reader.read(path))
            meta["filename_or_obj"] = str(path)
            result[key] = MetaTensor.ensure_torch_and_prune_meta(array.astype(np.float32), meta)
        return result


class BinarizeBoned(MapTransform):  # type: ignore[misc]
    """Turn masks of any coding into uint8 0 and 1; see `prepare_transform` for the rule.

    Args:
        keys: Keys of the images.
    """

    def __init__(self, keys: Hashable | Sequence[Hashable]) -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Binarize each image; InputError if it is not a mask of a skull."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            bone = _bone(image.as_tensor() if isinstance(image, MetaTensor) else image)
            result[key] = MetaTensor(bone, meta=image.meta)
        return result


class HeadToGridd(MapTransform):  # type: ignore[misc]
    """Crop a RAS-oriented mask to the head and resample it once to the grid.

    Args:
        keys: Keys of the masks, shape ``(1, X, Y, Z)``.
        size: Voxels along each edge of the grid.
        spacing_mm: Edge of a voxel in mm.
        fit: See `prepare_transform`.
        center: See `prepare_transform`.
        threshold: See `prepare_transform`.
    """

    def __init__(
        self,
        keys: Hashable | Sequence[Hashable],
        size: int,
        spacing_mm: float,
        *,
        fit: Fit = "pad",
        center: Center = "keep",
        threshold: float = 0.5,
    ) -> None:
        super().__init__(keys)
        self.size, self.spacing_mm = size, spacing_mm
        self.fit, self.center, self.threshold = fit, center, threshold
        self._resample = SpatialResample(
            mode="bilinear", padding_mode="zeros", align_corners=True, dtype=torch.float32
        )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resample each mask to the grid."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self._to_grid(result[key])
        return result

    def _to_grid(self, image: MetaTensor) -> MetaTensor:
        mask = image[0].numpy()
        affine = np.asarray(image.affine.numpy(), dtype=np.float64)
        low, high = _world_box(mask, affine)
        target = self._grid_affine(mask.shape, affine, low, high)
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        sigma = np.maximum(target[0, 0] / spacing - 1, 0) / 2
        cropped, offset = _crop(mask, margin=np.ceil(4 * sigma).astype(int) + 2)
        moved = affine.copy()
        moved[:3, 3] = affine[:3, :3] @ offset + affine[:3, 3]
        soft = cropped.astype(np.float32)
        if sigma.any():
            ndimage.gaussian_filter(soft, sigma, output=soft, mode="constant")
        source = MetaTensor(torch.from_numpy(soft)[None], affine=torch.from_numpy(moved))
        out = self._resample(source, dst_affine=target, spatial_size=(self.size,) * 3)
        bone = (out.as_tensor() > self.threshold).to(torch.uint8)
        if not bone.any():
            raise InputError(
                f"no bone is left at {target[0, 0]:.3g} mm: thinner than a voxel; use a smaller "
                "spacing_mm with a larger size, or a lower threshold"
            )
        return MetaTensor(bone, affine=torch.from_numpy(target))

    def _grid_affine(
        self,
        shape: tuple[int, ...],
        affine: NDArray[np.float64],
        low: NDArray[np.float64],
        high: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Return the affine of the grid, checking that the head fits."""
        extent = high - low
        spacing = self.spacing_mm
        middle = (low + high) / 2
        if self.fit == "resize":
            spacing = float(extent.max() / (self.size - 2 * _BORDER))
        elif self.center == "keep":
            middle = affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]
        half = np.maximum(high - middle, middle - low).max()
        # Half a voxel of tolerance, since rounding to whole voxels may shift the head by as much.
        if 2 * half > (self.size + 1) * spacing:
            raise InputError(self._too_large(extent, half, spacing))
        origin = middle - (self.size - 1) / 2 * spacing
        own = affine[:3, :3]
        if np.allclose(own, np.eye(3) * spacing, atol=_SAME_SPACING * spacing):
            steps = np.round((origin - affine[:3, 3]) / spacing)
            origin = affine[:3, 3] + own @ steps
            target = np.eye(4)
            target[:3, :3] = own
        else:
            target = np.diag([spacing, spacing, spacing, 1.0])
        target[:3, 3] = origin
        return target

    def _too_large(self, extent: NDArray[np.float64], half: float, spacing: float) -> str:
        need = np.ceil(200 * half / self.size) / 100
        size = " x ".join(f"{e:.0f}" for e in extent)
        where = "" if 2 * half <= extent.max() + spacing else ", off the center of its volume,"
        other = "" if not where else " or center: head"
        return (
            f"the head of {size} mm{where} does not fit into {self.size} voxels of {spacing:g} mm "
            f"({self.size * spacing:g} mm): use spacing_mm {need:g} or more, a larger size, "
            f"fit: resize{other}"
        )


def _bone(image: Tensor) -> Tensor:
    """Return uint8 0 and 1; InputError for values that are not a mask."""
    low, high = float(image.min()), float(image.max())
    if low < 0:
        raise InputError(
            f"values from {low:g} to {high:g}: a mask has 0 for background and nothing below; "
            "threshold a CT first"
        )
    if high == 0:
        raise InputError("the mask is all zero: there is no bone in it")
    whole = not image.is_floating_point() or bool((image == image.round()).all())
    bone = image > (0 if whole else high / 2)
    if bool(bone.all()):
        raise InputError("the mask is full: every voxel is bone, none is background")
    return bone.to(torch.uint8)


def _world_box(
    mask: NDArray[np.uint8], affine: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the corners of the bounding box of the bone along the world's axes, in mm."""
    # Only the outermost bone along the first axis can touch the box: two points per column.
    column = mask.any(axis=0)
    j, k = np.nonzero(column)
    first = mask.argmax(axis=0)[j, k]
    last = mask.shape[0] - 1 - mask[::-1].argmax(axis=0)[j, k]
    points = np.concatenate([np.stack([first, j, k]), np.stack([last, j, k])], axis=1)
    world = affine[:3, :3] @ points + affine[:3, 3:]
    voxel = np.abs(affine[:3, :3]).sum(axis=1) / 2
    return world.min(axis=1) - voxel, world.max(axis=1) + voxel


def _crop(
    mask: NDArray[np.uint8], margin: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return the bone cropped to its box with a margin, and the index of its first voxel."""
    low, high = [], []
    for axis in range(3):
        hits = np.flatnonzero(mask.any(axis=tuple(i for i in range(3) if i != axis)))
        low.append(hits[0] - margin[axis])
        high.append(hits[-1] + margin[axis] + 1)
    start = np.maximum(low, 0)
    stop = np.minimum(high, mask.shape)
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    # Outside the volume the margin is background, so that smoothing does not extend bone.
    pad = [(int(s - a), int(b - e)) for a, b, s, e in zip(low, high, start, stop, strict=True)]
    return np.pad(mask[box], pad), np.array(low, dtype=np.float64)
