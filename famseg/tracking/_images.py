"""Images and table cells in a form that MLflow's UI can display."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from famseg.tracking._outbox import RefusedError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image


def to_image(source: Path | str | np.ndarray[Any, Any]) -> Image:
    """Return an image from a file or an array.

    Args:
        source: A file, or an array ``(height, width)`` or ``(height, width, 3)`` of uint8 or bool,
            or of floats in [0, 1] (others are clipped).

    Returns:
        The image, gray or RGB.

    Raises:
        RefusedError: If it does not contain an image.
    """
    import numpy as np
    from PIL import Image

    try:
        if isinstance(source, Path | str):
            with Image.open(source) as file:
                return file.convert("RGB")
        values = np.asarray(source)
        if values.dtype != np.uint8:
            values = np.rint(np.nan_to_num(values.astype(np.float64)).clip(0, 1) * 255)
        return Image.fromarray(values.astype(np.uint8))
    except (OSError, TypeError, ValueError) as error:
        raise RefusedError(str(error)) from None


def cell(value: object) -> object:
    """Return a value as JSON for a table; values that are not finite are empty.

    Example:
        >>> cell("a"), cell(3), cell(float("nan")), cell(Path("b"))
        ('a', 3, None, 'b')
    """
    if hasattr(value, "item"):  # a NumPy or torch scalar
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)
