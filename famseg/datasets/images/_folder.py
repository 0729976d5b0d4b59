"""Folders of image files, one sub-folder per class."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from famseg.datasets.images._images import Images, ReadImages
from famseg.datasets.images._split import TEST, held_out
from famseg.messages import DAMAGED, NO_TEXT, InputError, is_text, visible

Progress = Callable[[int, int], None]
File = tuple[Path, int]

SUFFIXES = (".jpeg", ".jpg", ".png")
_VALIDATION_NAMES = ("val", "valid", "validation")
_DEEP_MODES = ("F", "I", "I;16", "I;16B", "I;16L", "I;16N")  # Pillow would clip these at 255
_MOST_FAULTS = 20


def read_image_folder(
    root: Path,
    *,
    channels: int,
    size: int | None,
    test: float,
    seed: int,
    progress: Progress,
) -> ReadImages:
    """Read PNG and JPEG files; classes are the names of the folders in the order of the alphabet.

    Images are rotated according to their EXIF data, converted to RGB or gray, scaled to fill the
    square of ``size`` (bilinear with antialiasing) and cut at its border where they are not square.
    All are held in memory: ``channels * size**2`` bytes each.

    Args:
        root: Folder with ``train`` and ``test``, which hold one folder per class; or with one
            folder per class, of which a share is held out to test.
        channels: 1 for gray, 3 for RGB.
        size: Edge in pixels; None takes square images that all have one size.
        test: Share that is held out, class by class, where there is no folder ``test``.
        seed: Decides which.
        progress: Called with the number of files read and their total.

    Raises:
        InputError: One line for each faulty file, at most 20 and a count of the rest; or the errors
            of the folders.
    """
    folders = _split_folders(root)
    classes = _classes(folders[0])
    for folder in folders[1:]:
        if (others := _classes(folder)) != classes:
            odd = ", ".join(sorted(set(classes) ^ set(others))[:5])
            raise InputError(
                f"{folder}: {len(others)} classes, but {folders[0].name} has {len(classes)}: both "
                f"need the same folders ({odd})"
            )
    listed = [_files(folder, classes) for folder in folders]
    total = sum(map(len, listed))
    begin = 0
    read: list[Images] = []
    for files in listed:
        moved = partial(_moved, progress, begin, total)
        read.append(_read_all(root, files, channels, size, moved))
        begin += len(files)
    if len(read) == 1:
        read = list(held_out(read[0], test, classes, seed, TEST))
    return ReadImages(read[0], read[1], classes)


def _moved(progress: Progress, begin: int, total: int, done: int) -> None:
    progress(begin + done, total)


def _split_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "there is no such folder"
        raise InputError(f"{root}: {what}: set data.root to the folder with the images")
    names = {path.name for path in _subfolders(root)}
    if not names & {"train", "test"}:
        return [root]
    for name in sorted(names & set(_VALIDATION_NAMES)):
        raise InputError(
            f"{root / name}: famseg takes validation images from train (data.validation): move "
            "these into train, or elsewhere"
        )
    for name in ("train", "test"):
        if name not in names:
            raise InputError(
                f"{root}: there is no folder {name} beside {'train test'.replace(name, '').strip()}"
            )
    return [root / "train", root / "test"]


def _classes(folder: Path) -> tuple[str, ...]:
    names = tuple(path.name for path in _subfolders(folder))
    if len(names) < 2:
        raise InputError(f"{folder}: {len(names)} folders of classes: at least 2 are needed")
    return names


def _subfolders(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith(".")]


def _files(folder: Path, classes: Sequence[str]) -> list[File]:
    found: list[File] = []
    for label, name in enumerate(classes):
        own = [p for p in sorted((folder / name).rglob("*")) if _wanted(p)]
        if not own:
            raise InputError(f"{folder / name}: no images ({', '.join(SUFFIXES)})")
        found += [(path, label) for path in own]
    return found


def _wanted(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _read_all(
    root: Path,
    files: Sequence[File],
    channels: int,
    size: int | None,
    progress: Callable[[int], None],
) -> Images:
    pixels: NDArray[np.uint8] | None = None
    faults: list[str] = []
    for index, (path, _) in enumerate(files):
        try:
            image = _read_file(path, channels, size)
            if pixels is None:
                pixels = np.empty((len(files), *image.shape), dtype=np.uint8)
            if image.shape != pixels.shape[1:]:
                raise InputError(
                    f"{path}: {image.shape[2]} x {image.shape[1]} pixels, but others have "
                    f"{pixels.shape[3]} x {pixels.shape[2]}: set data.size to resize all to one "
                    "size"
                )
            pixels[index] = image
        except InputError as error:
            faults += error.faults
        progress(index + 1)
    if faults or pixels is None:
        more = len(faults) - _MOST_FAULTS
        rest = [f"{root}: {more} more images have errors"] if more > 0 else []
        raise InputError(*faults[:_MOST_FAULTS], *rest)
    names = [(path.relative_to(root).as_posix(), 1) for path, _ in files]
    return Images(pixels, np.array([label for _, label in files], dtype=np.int64), files=names)


def _is_cut(image: Image.Image) -> bool:
    """Return whether Pillow would silently reduce several channels from 16 to 8 bits."""
    return any("16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _read_file(path: Path, channels: int, size: int | None) -> NDArray[np.uint8]:
    if not is_text(str(path)):
        raise InputError(f"{visible(str(path))}: {NO_TEXT}")
    try:
        # Pillow only warns about images of 90 to 180 million pixels.
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            opened = Image.open(path, formats=("JPEG", "PNG"))
        with opened:
            if opened.mode in _DEEP_MODES or _is_cut(opened):
                raise InputError(f"{path}: more than 8 bits per channel: convert it to 8 bits")
            image = ImageOps.exif_transpose(opened)
            if "transparency" in image.info:  # for palettes: colors first, then their opacity
                image = image.convert("RGBA")
            image = image.convert("RGB" if channels == 3 else "L")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{path}: too many pixels to be an image of this kind") from error
    except (OSError, SyntaxError, *DAMAGED) as error:
        raise InputError(
            f"{path}: is not a PNG or JPEG file, or it is cut short or damaged"
        ) from error
    if size is not None:
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    elif image.width != image.height:
        raise InputError(
            f"{path}: {image.width} x {image.height} pixels, not square: set data.size"
        )
    array = np.asarray(image)
    return array.transpose(2, 0, 1) if channels == 3 else array[None]
