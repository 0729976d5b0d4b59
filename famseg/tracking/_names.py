"""Representation of a run in MLflow: names, texts, colors."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

# From dark (small lambda) to bright (large lambda), distinguishable in gray, too.
_COLORS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 190, 37))
_NO_PENALTY = "#7f7f7f"
# Colors of methods without a lambda, by the beginning of their label.
_OTHERS = {
    "SAM": "#d1495b",
    "ASAM": "#8f2d56",
    "GSAM": "#e07a5f",
    "WSAM": "#b5179e",
    "LookSAM": "#ff8fab",
    "NSO": "#00798c",
    "SWA": "#30638e",
    "Jacobian norm": "#6d6875",
    "weight decay": "#a0662e",
    "label smoothing": "#e377c2",
}
_SMALLEST_LOG10, _LARGEST_LOG10 = -4.0, 0.0


def run_name(
    penalty_weight: float, seed: int, method: str | None = None, distinction: str = ""
) -> str:
    """Return the name of a run, which distinguishes it from others in a comparison.

    Args:
        penalty_weight: Lambda.
        seed: The seed.
        method: The method's label, see :func:`method_label`; None if lambda distinguishes all runs.
        distinction: Any other distinction.

    Example:
        >>> run_name(0.002, 0)
        'lambda=0.002 seed=0'
        >>> run_name(0.002, 0, distinction="epochs6")
        'lambda=0.002 seed=0 epochs6'
        >>> run_name(0.0, 1, "SAM rho=0.05")
        'SAM rho=0.05 seed=1'
    """
    return f"{method or f'lambda={penalty_weight:g}'} seed={seed} {distinction}".rstrip()


def method_label(config: Mapping[str, Any]) -> str:
    """Return the label of a run's method, that is, its regularization.

    Args:
        config: The resolved configuration with the keys that users write, as in ``config.yaml``.

    Returns:
        ``baseline``, or the parts joined by `` + ``: ``FAM lambda=0.1``, ``weight decay of head
        lambda=0.01``, ``Jacobian norm lambda=0.01``, ``SAM rho=0.05``, ``ASAM rho=0.5``, ``GSAM
        rho=0.05 alpha=0.4``, ``WSAM rho=0.05 gamma=0.9``, ``LookSAM rho=0.1 every=10 alpha=0.7``,
        ``NSO sigma=0.01 pairs=1``, ``SWA start=0.75 every=1``, ``label smoothing 0.1``. A penalty
        with lambda 0 does not count.

    Example:
        >>> method_label({"penalty": {"kind": "none"}, "sam": {"rho": 0.05, "adaptive": False}})
        'SAM rho=0.05'
        >>> method_label({"sam": {"kind": "gsam", "rho": 0.05, "alpha": 0.4, "rho_min": 0.0}})
        'GSAM rho=0.05 alpha=0.4'
        >>> method_label({"penalty": {"kind": "relative_flatness", "lambda": 0.0}})
        'baseline'
    """
    names = ("penalty", "sam", "nso", "training", "loss")
    penalty, sam, nso, training, loss = (config.get(name) or {} for name in names)
    weight, parts = penalty.get("lambda") or 0.0, []
    if weight:
        kind = str(penalty.get("kind"))
        penalties = {
            "relative_flatness": "FAM",
            "weight_decay": f"weight decay of {penalty.get('layer')}",
            "jacobian_norm": "Jacobian norm",
        }
        parts.append(f"{penalties.get(kind, kind)} lambda={weight:g}")
    if sam:
        parts.append(_sam_label(sam))
    if nso:
        parts.append(_with_values("NSO", nso))
    if training.get("swa"):
        parts.append(_with_values("SWA", training["swa"]))
    if loss.get("label_smoothing"):
        parts.append(f"label smoothing {loss['label_smoothing']:g}")
    return " + ".join(parts) or "baseline"


def _sam_label(sam: Mapping[str, Any]) -> str:
    """Return the label of SAM or a variant, with the parameters varied in the papers."""
    kind = sam.get("kind", "sam")  # older configurations have no kind
    if kind == "sam":
        return f"{'ASAM' if sam.get('adaptive') else 'SAM'} rho={sam['rho']:g}"
    names = {"gsam": "GSAM", "wsam": "WSAM", "looksam": "LookSAM"}
    told = ("rho", "gamma", "every", "alpha")
    values = _with_values(names.get(kind, kind), {key: sam.get(key) for key in told})
    return f"{values} adaptive" if sam.get("adaptive") else values


def _with_values(name: str, values: Mapping[str, float | None]) -> str:
    """Return a name with the given values: ``NSO sigma=0.01 pairs=1``."""
    given = [f"{key}={value:g}" for key, value in values.items() if value is not None]
    return " ".join([name, *given])


def flatten(tree: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return a nested mapping as a flat one with dotted names.

    Example:
        >>> flatten({"seed": 0, "penalty": {"lambda": 0.1, "every": 2}})
        {'seed': 0, 'penalty.lambda': 0.1, 'penalty.every': 2}
    """
    flat: dict[str, object] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def text_of(value: object) -> str:
    """Return a parameter in YAML notation.

    Example:
        >>> text_of("cpu"), text_of(None), text_of([8, 16]), text_of(True)
        ('cpu', 'null', '[8, 16]', 'true')
    """
    return value if isinstance(value, str) else json.dumps(value, default=str)


def valid_name(name: str, *, ascii_only: bool = False) -> str:
    """Return a valid MLflow name, with invalid characters replaced by ``_``.

    Args:
        name: The name of a metric, a parameter or a series of images.
        ascii_only: Whether non-ASCII letters are also invalid, as for images.

    Example:
        >>> valid_name("val/dsc"), valid_name("val/dsc (mean)")
        ('val/dsc', 'val/dsc _mean_')
        >>> valid_name("Schädel"), valid_name("Schädel", ascii_only=True)
        ('Schädel', 'Sch_del')
    """
    return re.sub(r"[^\w./ -]", "_", name, flags=re.ASCII if ascii_only else 0)


def cut(text: str, longest: int) -> str:
    """Return a text truncated to a length, with a mark if it was truncated.

    Example:
        >>> cut("abcdefgh", 6)
        'abc...'
    """
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def milliseconds(time_s: float) -> int:
    """Return a time in MLflow's unit."""
    return int(time_s * 1000)


def color(penalty_weight: float, method: str | None = None) -> str:
    """Return the color of a run in charts: gray for a baseline, brighter with lambda for FAM.

    Runs that differ only in the seed have the same color, so that their curves form a group. Other
    methods have their own colors.

    Args:
        penalty_weight: Lambda.
        method: The method's label, see :func:`method_label`.

    Example:
        >>> color(0.0), color(0.0001), color(1.0), color(0.0, "SAM rho=0.05")
        ('#7f7f7f', '#440154', '#fdbe25', '#d1495b')
    """
    for beginning, of_method in _OTHERS.items():
        if (method or "").startswith(beginning):
            return of_method
    if penalty_weight <= 0:
        return _NO_PENALTY
    share = (math.log10(penalty_weight) - _SMALLEST_LOG10) / (_LARGEST_LOG10 - _SMALLEST_LOG10)
    place = min(max(share, 0.0), 1.0) * (len(_COLORS) - 1)
    below = min(int(place), len(_COLORS) - 2)
    mix = place - below
    rgb = (
        round((1 - mix) * low + mix * high)
        for low, high in zip(_COLORS[below], _COLORS[below + 1], strict=True)
    )
    return "#" + "".join(f"{value:02x}" for value in rgb)
