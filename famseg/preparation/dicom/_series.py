"""Grouping of DICOM files into series, and of series into sources or refusals."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath

import numpy as np
from pydicom import uid

from famseg.messages import InputError
from famseg.preparation._types import Refused, Source
from famseg.preparation.dicom._choice import Series, best_series
from famseg.preparation.dicom._geometry import make_plan
from famseg.preparation.dicom._header import Header, pixel_digest, read_header, standard_name
from famseg.preparation.dicom._pixels import read_series
from famseg.preparation.dicom._slice import Slice
from famseg.preparation.dicom._stacks import best_stack, placed
from famseg.preparation.sources import Item, Opener, PersonalWords, fit_name, identity_of

# Transfer syntaxes that the GDCM inside SimpleITK decodes.
_DECODED = (
    *(uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian),
    *(uid.DeflatedExplicitVRLittleEndian, uid.RLELossless, uid.JPEGBaseline8Bit),
    *(uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless),
    *(uid.JPEGLSNearLossless, uid.JPEG2000Lossless, uid.JPEG2000),
)
# Transfer syntaxes that pydicom decodes without plugins, frame by frame.
_DECODED_FRAMES = (*_DECODED[:5],)
_LOCALISER = {"LOCALIZER", "SCOUT", "TOPOGRAM", "SCANOGRAM"}
_IMAGE = {"SCREEN SAVE", "SNAPSHOT", "PROJECTION IMAGE", "VRT", "MIP", "REPORT", "DOSE"}
_SAME_MM = 0.01  # slices closer than this have the same position


class _LeftOutError(InputError):
    """A file is neither a scan nor an error, but a localizer or a report."""


def find_series(
    items: Sequence[Item], name: str, *, every_series: bool = False
) -> tuple[list[Source], list[Refused], PersonalWords]:
    """Return the CT series among DICOM files.

    Files with the same series UID belong together, wherever they are stored. A subject is named
    after the folder of its series. If that contains personal data from the headers (parts of names,
    numbers, dates, institutions, UIDs), the name is ``series_`` and eight digits of a hash of its
    pixels.

    Args:
        items: The files.
        name: Of the folder or archive that is searched.
        every_series: Use every series, not only the best of those that show the same head in one
            study (`best_series`).

    Returns:
        The sources, the files that are refused or left out with the reason, and the personal words
        in all headers, since folders named after a person may contain other files, too.
    """
    groups: dict[str, list[Header]] = defaultdict(list)
    refused: list[Refused] = []
    with Opener() as opener:
        for item in items:
            header = read_header(item, opener)
            if header is None:
                place = item.place.as_posix()
                reason = "its header cannot be read as DICOM: it is damaged; copy it again"
                refused.append(Refused(item.subject, place, reason))
            else:
                groups[header.series].append(header)
    found: list[Series] = []
    folders = Counter(_folder(headers) for headers in groups.values())
    ordered = sorted(groups.values(), key=lambda hs: (_folder(hs), hs[0].number, hs[0].series))
    index: Counter[PurePosixPath] = Counter()
    for headers in ordered:
        folder = _folder(headers)
        index[folder] += 1
        several = f"_series{index[folder]}" if folders[folder] > 1 else ""
        subject, origin = _named(headers, folder, several, name)
        try:
            found.append(Series(*_source(headers, subject, origin)))
        except _LeftOutError as error:
            refused.append(Refused(subject, origin, str(error), left_out=True))
        except InputError as error:
            refused.append(Refused(subject, origin, str(error)))
    headers = [header for group in ordered for header in group]
    if every_series:
        return [series.source for series in found], refused, _words(headers)
    sources, others = best_series(found)
    return sources, [*refused, *others], _words(headers)


def _words(headers: Sequence[Header]) -> PersonalWords:
    return PersonalWords(
        {text for header in headers for text in header.texts},
        {date for header in headers for date in header.dates},
    )


def _source(headers: list[Header], subject: str, origin: str) -> tuple[Source, list[Header]]:
    """Return a series as a source with its headers, or raise an error with the reason."""
    words = _words(headers)
    headers, notes = _scans(headers)
    headers, stacks = best_stack(headers)
    shown = _shown(headers, words)
    slices = [replace(part, shown=shown[part.item]) for h in headers for part in h.slices]
    _check_mixed(slices)
    slices, sorted_by = placed(slices)
    slices, copies = _once(slices, headers)
    plan = make_plan(
        slices,
        tilt_deg=float(np.median([header.tilt_deg for header in headers])),
        derived="DERIVED" in headers[0].image_type,
    )
    rescaled = all(header.rescaled for header in headers)
    files = tuple(dict.fromkeys(part.item.file for part in plan.slices))
    assumed = tuple(dict.fromkeys(note for header in headers for note in header.notes))
    told = (*notes, *stacks, *assumed, *sorted_by, *copies)
    read = partial(read_series, plan, origin, told, rescaled)
    first = headers[0]
    identity = identity_of(first.patient, first.study, first.frame_of_reference)
    return Source(subject, origin, files, read, identity=identity), headers


def _shown(headers: Sequence[Header], words: PersonalWords) -> dict[Item, str]:
    """Return file names for messages, or numbers if the names contain personal data."""
    if any(words.in_text(header.item.name) for header in headers):
        return {header.item: f"file {n} of {len(headers)}" for n, header in enumerate(headers, 1)}
    return {header.item: header.item.name for header in headers}


def _scans(headers: list[Header]) -> tuple[list[Header], tuple[str, ...]]:
    """Return the headers that belong to a scan, or raise an error if there are none.

    Scanners add localizers, screenshots, renderings and dose reports to the series of a scan.
    """
    scouts = [header for header in headers if _LOCALISER & set(header.image_type)]
    kept = [header for header in headers if header not in scouts and _is_slice(header)]
    if not kept:
        kept = _refuse(headers)
    notes = []
    if scouts:
        notes.append(f"Localizers in the series that were left out: {len(scouts)}.")
    if len(kept) + len(scouts) < len(headers):
        others = len(headers) - len(kept) - len(scouts)
        notes.append(
            f"Screenshots, reports and the like in the series that were left out: {others}."
        )
    if "DERIVED" in kept[0].image_type:
        notes.append("The headers say that the images were computed from others.")
    _check_pixels(kept)
    faults = Counter(header.fault for header in kept if header.fault is not None)
    if faults:
        fault, count = faults.most_common(1)[0]
        first = next(header for header in kept if header.fault == fault)
        name = f" (such as {_shown(kept, _words(headers))[first.item]})"
        where = f"{count} of {len(kept)} files{name if count < len(kept) else ''}"
        raise InputError(f"{where}: {fault}; export the series again")
    return kept, tuple(notes)


def _is_slice(header: Header) -> bool:
    words = set(header.image_type)
    computed = {"DERIVED", "SECONDARY"} <= words and "AXIAL" not in words
    image = bool(_IMAGE & words) or "Secondary Capture" in header.kind or header.samples != 1
    return header.has_image and header.modality == "CT" and not image and not computed


def _refuse(headers: list[Header]) -> list[Header]:
    """Raise an error with the reason why no file of a series is a CT slice."""
    first = headers[0]
    if not any(header.has_image for header in headers):
        if "Image Storage" in first.kind:
            raise InputError("the headers do not say how many pixels there are; copy it again")
        raise _LeftOutError(f"not an image ({first.kind or 'of an unknown kind'})")
    if "Secondary Capture" in first.kind:
        raise _LeftOutError("a secondary capture (an image of a screen), not a scan")
    modality = Counter(header.modality for header in headers)
    if set(modality) != {"CT"}:
        found = ", ".join(sorted(modality))
        raise InputError(f"modality {found}, not CT: bone is found by CT numbers; give a CT series")
    kept = [header for header in headers if not _LOCALISER & set(header.image_type)]
    if not kept:
        raise _LeftOutError("a localizer (scout view), not a scan")
    words = set(kept[0].image_type)
    if _IMAGE & words:
        raise _LeftOutError("derived images (renderings or projections), not a scan")
    if {"DERIVED", "SECONDARY"} <= words and "AXIAL" not in words:
        raise _LeftOutError("derived images (reformatted from another series), not the scan itself")
    _check_pixels(kept)
    return kept


def _check_pixels(headers: list[Header]) -> None:
    if any(header.samples != 1 for header in headers):
        raise _LeftOutError("color images, not a scan")
    for header in headers:
        many = bool(header.slices) and header.slices[0].frame is not None
        if header.syntax not in (_DECODED_FRAMES if many else _DECODED):
            name = standard_name(header.syntax) or "an unknown transfer syntax"
            frames = ", several frames per file" if many else ""
            raise InputError(
                f"its pixels have a compression that famseg cannot read ({name}{frames}): export "
                "it uncompressed"
            )
    if any(header.times > 1 for header in headers):
        raise InputError("4D: it contains several points in time; export one of them as a series")


def _check_mixed(slices: Sequence[Slice]) -> None:
    """Refuse slices of different sizes, spacings or orientations, stating the count of each."""
    kinds: dict[str, Counter[str]] = {
        "sizes": Counter(f"{s.size[0]} x {s.size[1]} pixels" for s in slices),
        "spacings": Counter(f"{s.spacing_mm[0]:.4g} x {s.spacing_mm[1]:.4g} mm" for s in slices),
        "orientations": Counter(_orientation(s) for s in slices),
    }
    for what, counts in kinds.items():
        if len(counts) > 1:
            each = ", ".join(f"{count} of {kind}" for kind, count in counts.most_common(4))
            raise InputError(f"slices of several {what} in one series ({each}): separate them")


def _orientation(part: Slice) -> str:
    """Return the plane and the direction of the normal, rounded to about a degree."""
    normal = np.cross(part.row, part.column)
    plane = ("sagittal", "coronal", "axial")[int(np.argmax(np.abs(normal)))]
    turned = "/".join(f"{x + 0.0:.2f}" for x in np.round((*part.row, *part.column), 2))
    return f"{plane} ({turned})"


def _once(slices: list[Slice], headers: Sequence[Header]) -> tuple[list[Slice], tuple[str, ...]]:
    """Return slices without duplicates, or raise an error if different slices share a position."""
    normal = np.cross(slices[0].row, slices[0].column)
    heights = np.array([np.dot(part.position_mm, normal) for part in slices])
    order = np.argsort(heights, kind="stable")
    places: list[list[Slice]] = []
    for k, i in enumerate(order):
        if k and heights[i] - heights[order[k - 1]] < _SAME_MM:
            places[-1].append(slices[i])
        else:
            places.append([slices[i]])
    counts = {len(place) for place in places}
    if counts == {1}:
        return slices, ()
    different = [p for p in places if len(p) > 1 and len({pixel_digest([s]) for s in p}) > 1]
    if slices[0].frame is None and not different:
        copies = len(slices) - len(places)
        return [place[0] for place in places], (f"Copies of slices that were left out: {copies}.",)
    if len(counts) == 1 and len(places) > 1:
        raise InputError(
            f"4D: {counts.pop()} slices at each of {len(places)} places (points in time or "
            "reconstructions in one series); export one of them as a series"
        )
    where = len(different) or sum(len(p) > 1 for p in places)
    raise InputError(
        f"different slices at the same place ({where} of {len(places)} places): there are several "
        "scans in one series; export them separately"
    )


def _folder(headers: Iterable[Header]) -> PurePosixPath:
    """Return the deepest folder that contains all files of a series."""
    parents = {header.item.place.parent.as_posix() for header in headers}
    return PurePosixPath(os.path.commonpath(parents)) if parents != {"."} else PurePosixPath()


def _named(
    headers: Sequence[Header], folder: PurePosixPath, several: str, name: str
) -> tuple[str, str]:
    """Return subject and origin, neither of which contains words from the headers."""
    words = _words(headers)
    single = len(headers) == 1 and folder == PurePosixPath()
    place = headers[0].item.place.with_suffix("") if single else folder
    wanted = place.as_posix() if place.parts else name
    if not words.in_text(wanted):
        return fit_name(wanted) + several, wanted + several.replace("_series", " series ")
    slices = [part for header in headers for part in header.slices]
    whole = slices or [_stand_in(header) for header in headers]
    ordered = sorted(whole, key=lambda part: (part.position_mm, part.item.place.as_posix()))
    subject = f"series_{pixel_digest(ordered)[:8]}"
    hidden = words.masked(place) if place.parts else "***"
    return subject, f"{hidden} ({subject})"


def _stand_in(header: Header) -> Slice:
    """Return a slice without geometry, used only to read its pixels."""
    zero = (0.0, 0.0, 0.0)
    return Slice(header.item, None, zero, zero, zero, (0.0, 0.0), (0, 0), 1.0, 0.0)
