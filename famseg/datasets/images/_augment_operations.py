"""Operations on batches of images with the same results as Pillow, byte for byte.

Images are uint8 of shape ``(n, c, h, w)`` throughout; a parameter is a tensor of shape ``(n,)``.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Geometric = Literal["ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"]
Matrix = tuple[float, float, float, float, float, float]

_LEVELS = 256
# Luma of ITU-R 601-2 in units of 2**-16, as in Pillow's conversion to "L".
_LUMA = (19595, 38470, 7471)
_FIXED = 16  # fractional bits of Pillow's coordinates


def matrix(operation: Geometric, amount: float, size: tuple[int, int]) -> Matrix:
    """Return the map from a pixel of the result to one of the image, in Pillow's form.

    Args:
        operation: Shears are relative to the upper left corner, rotations to the center.
        amount: Shear as a factor, translation in pixels, rotation in degrees counterclockwise.
        size: Height and width of the images.

    Returns:
        ``a, b, c, d, e, f`` of ``x' = a x + b y + c``, ``y' = d x + e y + f``.
    """
    if operation == "ShearX":
        return (1, amount, 0, 0, 1, 0)
    if operation == "ShearY":
        return (1, 0, 0, amount, 1, 0)
    if operation == "TranslateX":
        return (1, 0, amount, 0, 1, 0)
    if operation == "TranslateY":
        return (1, 0, 0, 0, 1, amount)
    cosine, sine = math.cos(math.radians(amount)), math.sin(math.radians(amount))
    y, x = size[0] / 2, size[1] / 2
    return (cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y)


def source_pixels(affine: Matrix, size: tuple[int, int]) -> Tensor:
    """Return the nearest pixel of the image for each pixel of the result.

    Coordinates are rounded to 16 fractional bits like Pillow's, so that ties are resolved equally.

    Args:
        affine: A map from `matrix`.
        size: Height and width.

    Returns:
        int64, shape ``(h * w,)``: ``y * w + x``, or ``h * w`` outside the image.
    """
    height, width = size
    a, b, c, d, e, f = (math.floor(x * 2**_FIXED + 0.5) for x in _at_centers(affine))
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    x = a * columns + b * rows + c >> _FIXED
    y = d * columns + e * rows + f >> _FIXED
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return torch.where(inside, y * width + x, height * width).flatten()


def moved(images: Tensor, sources: Tensor, fill: Tensor) -> Tensor:
    """Return images with rearranged pixels.

    Args:
        images: The images.
        sources: Result of `source_pixels` for each image, shape ``(n, h * w)``.
        fill: Color outside the image, uint8, shape ``(c,)``.
    """
    n, c, h, w = images.shape
    flat = torch.cat((images.flatten(2), fill[:, None].expand(n, c, 1)), dim=2)
    return flat.gather(2, sources[:, None].expand(n, c, h * w)).view(n, c, h, w)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert all values at or above a threshold, uint8; 0 inverts the whole image."""
    # 255 where the value reaches the threshold, else 0. On bytes, torch has fast code for maximum
    # and equality, but not for ">=" and where.
    reached = (torch.maximum(images, _each(threshold)) == images).view(torch.uint8).neg()
    return images ^ reached


def posterize(images: Tensor, mask: Tensor) -> Tensor:
    """Keep the bits set in a mask, uint8."""
    return images & _each(mask)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with black: 0 gives black, 1 the image."""
    return _blend(images.new_zeros(()), images, factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean gray: 0 gives gray, 1 the image."""
    gray = _gray(images).flatten(1)
    n = gray.shape[1]
    mean = (2 * gray.sum(1) + n) // (2 * n)  # halves are rounded up on every device
    return _blend(_each(mean), images, factor)


def color(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the gray image: 0 gives the gray image, 1 the image."""
    return _blend(_gray(images)[:, None], images, factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with a smoothed image: 0 gives the smoothed image, 1 the image, 2 a sharper one.

    The outermost pixels have no smoothed value and are unchanged.
    """
    wide = images.short()
    rows = wide[:, :, :-2] + wide[:, :, 1:-1] + wide[:, :, 2:]
    box = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    smooth = images.clone()
    # The kernel is 5 at the center and 1 around it, divided by 13.
    mean = box.add_(wide[:, :, 1:-1, 1:-1], alpha=4).float().div_(13)
    smooth[:, :, 1:-1, 1:-1] = _bytes(mean.add_(0.5))
    return _blend(smooth, images, factor)


def autocontrast(images: Tensor) -> Tensor:
    """Stretch the values of each channel to 0 to 255."""
    planes = images.flatten(2)
    low, high = planes.amin(2, keepdim=True).double(), planes.amax(2, keepdim=True).double()
    # With a Python number, torch would multiply by a rounded inverse, unlike Pillow.
    scale = high.new_tensor(255.0) / (high - low).clamp(min=1)
    values = torch.arange(_LEVELS, device=images.device) * scale
    table = (values + -low * scale).clamp(0, 255).to(torch.uint8)
    return _looked_up(images, table, change=high > low)


def equalize(images: Tensor) -> Tensor:
    """Equalize the histogram of each channel."""
    planes = images.flatten(2).long()
    n, c, _ = planes.shape
    shifts = torch.arange(n * c, device=images.device).view(n, c, 1) * _LEVELS
    counts = torch.bincount((planes + shifts).flatten(), minlength=n * c * _LEVELS)
    counts = counts.view(n, c, _LEVELS)
    sums = counts.cumsum(2)
    # Pixels with the highest value are not counted; the others are divided into 255 steps.
    last = counts.gather(2, planes.amax(2, keepdim=True))
    step = (sums[..., -1:] - last) // 255
    change = step > 0
    step = step.clamp(min=1)
    # A quotient of doubles never rounds up to the next integer here, and is faster than "//".
    table = ((sums - counts + step // 2).double() / step).int().clamp_(max=255).to(torch.uint8)
    return _looked_up(images, table, change=change)


def _at_centers(affine: Matrix) -> Matrix:
    """Shift the origin of a map from the corner to the center of the first pixel."""
    a, b, c, d, e, f = affine
    return (a, b, c + (a + b) / 2, d, e, f + (d + e) / 2)


def _gray(images: Tensor) -> Tensor:
    """Return the luma, uint8, shape ``(n, h, w)``; for one channel, the channel itself."""
    if images.shape[1] == 1:
        return images[:, 0]
    red, green, blue = images.int().unbind(1)
    total = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
    return (total + 0x8000 >> 16).to(torch.uint8)


def _blend(start: Tensor, end: Tensor, factor: Tensor) -> Tensor:
    """Return the blend of two images by a factor, clipped to 0 and 255."""
    first = start.float()
    way = end.float().sub_(first).mul_(_each(factor))
    return _bytes(way.add_(first).clamp_(0, 255))


def _bytes(values: Tensor) -> Tensor:
    """Truncate values from 0 to 255 to integers."""
    return values.int().to(torch.uint8)  # in two steps, which are both fast in torch


def _looked_up(images: Tensor, table: Tensor, *, change: Tensor) -> Tensor:
    """Map the values of each channel with a lookup table of shape ``(n, c, 256)``."""
    same = torch.arange(_LEVELS, device=table.device, dtype=torch.uint8)
    table = torch.where(change, table, same)
    return table.gather(2, images.flatten(2).long()).view(images.shape)


def _each(parameter: Tensor) -> Tensor:
    return parameter[:, None, None, None]
