"""The pages of reconstructions: an interactive page per case and an overview of all cases."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from famseg.files import read_json, write_atomically
from famseg.messages import InputError, counted
from famseg.reporting._html import Image, Link, Page, Sortable, render
from famseg.reporting._reconstruction_view import ADVICE, read_shown, scene_of
from famseg.reporting._scene import scene_views

CASE, STATE = "case.json", "reconstruct.json"
PAGE, VIEWS = "report.html", "report.png"

_MOST_IMAGES = 60  # of about 40 KB each
_RESEARCH = "For research only: not a medical device."
_LOW = "low"
_AXES = ("RL", "AP", "SI")


@dataclass(frozen=True)
class _Measure:
    """A number of ``case.json``.

    Args:
        keys: Its keys in ``case.json``.
        label: Its name.
        unit: Its unit.
        digits: Its decimals.
        meaning: Its definition.
        in_table: Whether it is in the table of all cases.
    """

    keys: tuple[str, ...]
    label: str
    unit: str
    digits: int
    meaning: str
    in_table: bool = True


_MEASURES = (
    _Measure(
        ("confidence", "value"),
        "confidence",
        "",
        2,
        "the Dice coefficient of the implant that validation cases with this agreement had, 0 to 1",
    ),
    _Measure(("implant", "volume_ml"), "volume", "ml", 1, "of the implant's mesh"),
    _Measure(("implant", "area_cm2"), "area", "cm²", 1, "of its whole surface"),
    _Measure(
        ("implant", "thickness_mm", "median"),
        "thickness, median",
        "mm",
        1,
        "straight inwards from points of its surface",
    ),
    _Measure(
        ("implant", "thickness_mm", "p5"), "thickness, 5th percentile", "mm", 1, "the same points"
    ),
    _Measure(("gap_mm", "requested"), "gap, requested", "mm", 2, "room to the bone", False),
    _Measure(("gap_mm", "p1"), "gap, 1st percentile", "mm", 2, "from its rim to the bone"),
    _Measure(("gap_mm", "median"), "gap, median", "mm", 2, "from its rim to the bone"),
    _Measure(
        ("insertion", "undercut_mm3"),
        "undercut",
        "mm³",
        1,
        "the part that bone blocks when the implant is inserted along that direction",
    ),
    _Measure(("defect", "left_open_cm2"), "left open", "cm²", 1, "of the vault, by the implant"),
    _Measure(
        ("completed", "asymmetry_mm", "mean_mm"),
        "asymmetry, mean",
        "mm",
        2,
        "of the vault's inner surface, from its own mirror image",
        False,
    ),
)


def is_reconstruction(path: Path) -> bool:
    """Return whether ``famseg reconstruct`` wrote a folder, for all cases or one of them."""
    return any((path / name).is_file() for name in (STATE, CASE))


def write_reconstruction_pages(
    path: Path, target: Path | None = None, *, only: Sequence[str] | None = None
) -> Path:
    """Write the pages of reconstructions.

    Each case gets ``report.html`` in its own folder, since it takes megabytes and often goes to
    people who should not see other cases; next to it ``report.png`` has its surfaces from three
    sides. A page with all cases, the worst first, leads to them. If there is one case only, its
    page is all. Takes 5 to 10 seconds of one core per case.

    Args:
        path: The output folder of ``famseg reconstruct``, or the folder of a case in it.
        target: The file to write; ``report.html`` in the folder if left out.
        only: Names of the cases whose pages are written; others keep theirs. A case without a page
            gets one in any event.

    Returns:
        The file to open.

    Raises:
        InputError: If there is no case, or a file of one is missing or damaged.
        OSError: If a page cannot be written.
    """
    target = path / PAGE if target is None else target
    if (path / CASE).is_file():
        page, _ = case_page(path)
        write_atomically(target, render(page).encode())
        return target
    folders = sorted(found.parent for found in path.glob(f"*/{CASE}"))
    failed = _failed(path)
    if not folders:
        lines = [f"{name}: {reason}" for name, reason in failed.items()]
        raise InputError(
            *(lines or [f"{path}: contains no complete reconstruction. Reconstruct it again."])
        )
    if len(folders) == 1 and not failed:
        page, views = case_page(folders[0])
        _write_views(folders[0], views)
        write_atomically(target, render(page).encode())
        return target
    for folder in folders:
        if only is None or folder.name in only or not (folder / PAGE).is_file():
            page, views = case_page(folder)
            _write_views(folder, views)
            write_atomically(folder / PAGE, render(page).encode())
    write_atomically(target, render(cases_page(path, folders, target.parent)).encode())
    return target


def _write_views(folder: Path, views: bytes | None) -> None:
    if views is not None:
        write_atomically(folder / VIEWS, views)


def case_page(folder: Path) -> tuple[Page, bytes | None]:
    """Return the page of one case, and its surfaces from three sides as a PNG file.

    Args:
        folder: The folder of the case.

    Raises:
        InputError: If a file of the case is missing or damaged.
    """
    case = _read(folder)
    files = case.get("files")
    shown = read_shown(folder, files if isinstance(files, dict) else {})
    scene = scene_of(shown, "Skull, implant and confidence", folder.name)
    page = Page(
        title=f"Reconstruction of {folder.name}",
        lead=_lead(case),
        facts=dict(_facts(case)),
        alert=_alert(case),
        warnings=[each for each in _warnings(case) if not each.startswith("LOW CONFIDENCE")],
        scenes=[scene],
        tables=[_measurements(case)],
        settings=dict(_settings(folder.parent, case)),
        foot=_foot(case),
    )
    return page, scene_views(scene)


def cases_page(path: Path, folders: Sequence[Path], place: Path) -> Page:
    """Return the page that leads to all cases of an output folder.

    Args:
        path: The output folder.
        folders: The folders of its cases.
        place: The folder of the page, to which links are relative.

    Raises:
        InputError: If the record of a case is missing or damaged.
    """
    cases = {folder: _read(folder) for folder in folders}
    ordered = sorted(folders, key=lambda folder: _sureness(cases[folder]))
    failed = _failed(path)
    low = [folder for folder in ordered if _level(cases[folder]) == _LOW]
    warned = [f for f in ordered if f not in low and _warnings(cases[f])]
    many = counted(len(folders), "case")
    return Page(
        title=f"Reconstructions: {many}",
        lead=f"{many} with an implant. Low confidence: {len(low)}. Others with warnings: "
        f"{len(warned)}. Inputs of the last call that failed: {len(failed)}. {_RESEARCH}",
        facts={},
        alert=_low_alert(low),
        warnings=[
            *(f"{name} failed: {reason}" for name, reason in failed.items()),
            *(f"{f.name}: {each}" for f in [*low, *warned] for each in _warnings(cases[f])),
        ],
        tables=[_table(ordered, cases, place)],
        images=list(_images(ordered)),
        settings=dict(_settings(path, {})),
        foot=_foot(cases[ordered[0]]),
    )


def _read(folder: Path) -> dict[str, Any]:
    return read_json(folder / CASE, ADVICE)


def _failed(path: Path) -> dict[str, str]:
    """Return the inputs that the last call could not reconstruct, with the reasons."""
    if not (path / STATE).is_file():
        return {}
    failed = read_json(path / STATE, ADVICE).get("failed")
    if not isinstance(failed, dict):
        return {}
    return {str(name): str(reason) for name, reason in failed.items()}


def _at(case: Mapping[str, Any], *keys: str) -> object:
    """Return a value in nested objects; None if it does not exist."""
    value: object = case
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _number(case: Mapping[str, Any], *keys: str) -> float | None:
    value = _at(case, *keys)
    return float(value) if isinstance(value, int | float) else None


def _level(case: Mapping[str, Any]) -> str:
    level = _at(case, "confidence", "level")
    return level if isinstance(level, str) else "unknown"


def _sureness(case: Mapping[str, Any]) -> float:
    value = _number(case, "confidence", "value")
    return -1.0 if value is None else value


def _warnings(case: Mapping[str, Any]) -> list[str]:
    warnings = case.get("warnings")
    return [str(each) for each in warnings] if isinstance(warnings, list) else []


def _confidence(case: Mapping[str, Any]) -> str:
    value = _number(case, "confidence", "value")
    return f"{_level(case)} ({'unknown' if value is None else f'{value:.2f}'})"


def _lead(case: Mapping[str, Any]) -> str:
    areas, where = (_at(case, "defect", key) for key in ("openings_cm2", "where"))
    openings = "a defect"
    if isinstance(areas, list) and isinstance(where, list):
        openings = " and ".join(
            f"an opening of {area:.0f} cm² ({place})"
            for area, place in zip(areas, where, strict=False)
            if isinstance(area, int | float)
        )
    return f"An implant for {openings or 'a defect'}. Confidence: {_confidence(case)}. {_RESEARCH}"


def _alert(case: Mapping[str, Any]) -> str:
    if _level(case) != _LOW:
        return ""
    return (
        f"Low confidence: {_confidence(case)}. Validation cases like this one had a Dice "
        "coefficient of about that. Do not rely on this implant."
    )


def _low_alert(low: Sequence[Path]) -> str:
    if not low:
        return ""
    return f"Low confidence: {', '.join(folder.name for folder in low)}. Do not rely on these."


def _facts(case: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "confidence", _confidence(case)
    for measure in _MEASURES[1:]:
        value = _number(case, *measure.keys)
        if measure.in_table and value is not None:
            yield measure.label, f"{value:.{measure.digits}f} {measure.unit}"
    yield "insertion direction", direction_words(_at(case, "insertion", "direction_ras"))


def direction_words(direction: object) -> str:
    """Return a direction as anatomical letters, with its component along each.

    Example:
        >>> direction_words([-0.94, 0.0, -0.34])
        'L 0.94, I 0.34'
    """
    if not (isinstance(direction, list) and len(direction) == len(_AXES)):
        return "unknown"
    parts = [
        f"{axis[0] if value > 0 else axis[1]} {abs(value):.2f}"
        for axis, value in zip(_AXES, direction, strict=True)
        if isinstance(value, int | float) and abs(value) >= 0.005  # rounds to 0
    ]
    return ", ".join(parts) or "unknown"


def _measurements(case: Mapping[str, Any]) -> Sortable:
    rows: list[list[str | float | int | Link | None]] = []
    for measure in _MEASURES:
        value = _number(case, *measure.keys)
        text = "\N{EN DASH}" if value is None else f"{value:.{measure.digits}f}"
        rows.append([measure.label, text, measure.unit, measure.meaning])
    rows.append(
        [
            "insertion direction",
            direction_words(_at(case, "insertion", "direction_ras")),
            "",
            "the insertion direction with the smallest undercut: R right, L left, A front, P back, "
            "S up, I down",
        ]
    )
    box = _at(case, "implant", "box_mm")
    if isinstance(box, list) and all(isinstance(edge, int | float) for edge in box):
        text = " \N{MULTIPLICATION SIGN} ".join(f"{edge:.0f}" for edge in box)
        rows.append(["box", text, "mm", "around the implant, along right, front and top"])
    return Sortable(
        title="Measurements",
        columns=["measurement", "value", "unit", "what it is"],
        rows=rows,
        digits=[0, 0, 0, 0],
        caption="All of them, and more, are in case.json.",
    )


def _table(
    ordered: Sequence[Path], cases: Mapping[Path, Mapping[str, Any]], place: Path
) -> Sortable:
    measures = [measure for measure in _MEASURES if measure.in_table]
    titles = [f"{m.label} {m.unit}".strip() for m in measures]
    return Sortable(
        title="Case by case",
        columns=["case", *titles, "insertion direction", "warnings"],
        rows=[
            [
                Link(folder.name, _address(folder / PAGE, place)),
                *(_number(cases[folder], *measure.keys) for measure in measures),
                direction_words(_at(cases[folder], "insertion", "direction_ras")),
                len(_warnings(cases[folder])),
            ]
            for folder in ordered
        ],
        digits=[0, *(measure.digits for measure in measures), 0, 0],
        marked=frozenset(n for n, f in enumerate(ordered) if _level(cases[f]) == _LOW),
        caption="The lowest confidence first; cases with a low one are red. Choose a column to "
        "sort by it. A case's name leads to its page, with a view of the head that can be turned "
        "and cut. R is right, "
        "L left, A front, P back, S up and I down.",
    )


def _address(file: Path, place: Path) -> str:
    return Path(os.path.relpath(file.resolve(), place.resolve())).as_posix()


def _images(ordered: Sequence[Path]) -> Iterator[Image]:
    for folder in ordered[:_MOST_IMAGES]:
        if (folder / VIEWS).is_file():
            alt = f"Input skull and implant of {folder.name} from three sides"
            yield Image(folder.name, (folder / VIEWS).read_bytes(), alt, "png")


def _settings(out: Path, case: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    state = read_json(out / STATE, ADVICE) if (out / STATE).is_file() else {}
    for name, value in _flat({key: state.get(key) for key in ("options", "outputs")}):
        yield f"{name} (last call)", value
    yield from _flat({"model": case.get("model", state.get("model"))})
    yield from _flat({"input": case.get("input"), "method": case.get("method")})
    yield from _flat({"versions": case.get("versions", state.get("versions"))})


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        elif value is not None:
            yield f"{before}{key}", str(value)


def _foot(case: Mapping[str, Any]) -> str:
    parts = [
        f"famseg {_at(case, 'versions', 'famseg') or ''}",
        f"model {_at(case, 'model', 'name') or ''} {str(_at(case, 'model', 'sha256') or '')[:12]}",
        f"input {str(_at(case, 'input', 'sha256') or '')[:12]}",
    ]
    return f"{' · '.join(parts)}. {_RESEARCH}"
