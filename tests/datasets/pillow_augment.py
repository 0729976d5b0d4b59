"""Reference operations of Pillow from the benchmark, to test the batch operations."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def _module() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "_augmentation_pillow.py"
    spec = importlib.util.spec_from_file_location("_augmentation_pillow", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


changed = _module().changed


def to_pillow(image: Tensor) -> Image.Image:
    """Return an image ``(c, h, w)`` as a Pillow image."""
    array = image.numpy()
    return Image.fromarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0).copy())


def from_pillow(image: Image.Image) -> Tensor:
    """Return a Pillow image as ``(c, h, w)``."""
    array = np.array(image)
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())


def drawn_images(n: int, channels: int, height: int, width: int) -> Tensor:
    """Return various images: noise, ramps, few colors, one color, narrow ranges."""
    generator = torch.Generator().manual_seed(n + 7 * channels + height)
    result = torch.randint(256, (n, channels, height, width), generator=generator)
    result[1::6] = result[1::6] // 8 + 100
    result[2::6] = torch.arange(width) * 255 // width
    result[3::6] = result[3::6] // 128 * 200
    result[4::6] = 77
    result[5::6, :, : height // 2] = 255
    return result.to(torch.uint8)
