"""The page of the configuration's keys, from the sections that check them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from famseg.config import load_pipeline, pipeline_names
from famseg.config._sections import alternatives, kinds, names, sections
from famseg.engine import RunConfig

HEAD = """# Configuration keys

Every key of a configuration, by section; written by `make docs` from the sections that check
it. `famseg config show --config FILE` prints a configuration with all its values, `famseg config
check` finds its faults, `famseg config schema --pipeline NAME` prints the same reference as a JSON
schema for editors.

A section that has a `kind` takes the keys of that kind; one that is given in part takes the rest
from its default. On the command line dots join keys:
`optimizer.kind=sgd optimizer.momentum=0.95`. `lambda=X` stands for `penalty.lambda=X`. A file may
say `extends: OTHER.yaml` and hold only what differs. A key without a default is required, but
for those of a section that is absent. Units are in the names: `_mm`, `_cm2`, `_deg`, `_s`.
"""
_WORDS: dict[object, str] = {
    Any: "any value",
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    NoneType: "absent",
}
_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
_NOT_SHOWN = {"pipeline"}


@dataclass(frozen=True)
class _Part:
    """A section at one place of a document."""

    key: str
    kind: str
    section: type[BaseModel]


def configuration_page() -> str:
    """Return the page in Markdown."""
    shared = [name for name in RunConfig.model_fields if name not in _NOT_SHOWN]
    pages = [HEAD, *_group("Every pipeline", RunConfig, shared)]
    for pipeline in pipeline_names():
        config = load_pipeline(pipeline).Config
        own = [name for name in config.model_fields if name not in RunConfig.model_fields]
        pages += _group(f"Pipeline {pipeline}", config, own, also=_changed(config))
    return "\n".join(pages)


def described() -> Iterator[tuple[str, FieldInfo]]:
    """Yield every key of every pipeline with its field."""
    for pipeline in pipeline_names():
        config = load_pipeline(pipeline).Config
        for part in [_Part("", "", config), *_parts(config, list(config.model_fields))]:
            for name, field in names(part.section).items():
                yield f"{pipeline}: {part.key}.{name}", field


def _changed(config: type[BaseModel]) -> list[str]:
    """Return the shared keys whose default is another one in this pipeline."""
    return [
        name
        for name, field in RunConfig.model_fields.items()
        if name not in _NOT_SHOWN and _default(field) != _default(config.model_fields[name])
    ]


def _group(
    title: str, config: type[BaseModel], fields: list[str], *, also: list[str] | None = None
) -> Iterator[str]:
    yield f"## {title}\n"
    rows = [*fields, *(also or [])]
    yield _table({name: field for name, field in names(config).items() if name in rows})
    places: dict[tuple[str, type[BaseModel]], list[str]] = {}
    for part in _parts(config, fields):
        places.setdefault((part.kind, part.section), []).append(part.key)
    for (kind, section), keys in places.items():
        yield f"### {', '.join(keys)}{f': kind {kind}' if kind else ''}\n"
        yield f"{_summary(section)}\n"
        # The kind stands in the heading where there is a choice between sections.
        yield _table({n: f for n, f in names(section).items() if n != "kind" or not kind})


def _parts(config: type[BaseModel], fields: list[str], above: str = "") -> Iterator[_Part]:
    """Yield the sections below some fields of a section, depth first, each place once."""
    for name, field in names(config).items():
        if name not in fields:
            continue
        types = alternatives(field.annotation)
        tagged = {section: kind for kind, section in kinds(types).items()}
        for section in sections(types):
            key = f"{above}{name}"
            yield _Part(key, tagged.get(section, "") if len(sections(types)) > 1 else "", section)
            yield from _parts(section, list(names(section)), f"{key}.")


def _summary(section: type[BaseModel]) -> str:
    """Return the first paragraph of a section's docstring."""
    paragraph = (section.__doc__ or "").strip().partition("\n\n")[0]
    return " ".join(paragraph.replace("``", "`").split())


def _table(fields: Mapping[str, FieldInfo]) -> str:
    if not fields:
        return "No keys.\n"
    rows = ["| key | type | default | range | meaning |", "| --- | --- | --- | --- | --- |"]
    for name, field in fields.items():
        cells = (f"`{name}`", _type(field.annotation), _default(field), _range(field), _say(field))
        rows.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(rows) + "\n"


def _say(field: FieldInfo) -> str:
    return (field.description or "").rstrip(".")


def _cell(text: str) -> str:
    """Escape what would end a cell, and stars outside of code."""
    parts = re.split(r"(`[^`]*`)", text.replace("|", "\\|"))
    return "".join(p if p.startswith("`") else re.sub(r"([*_<>\[\]])", r"\\\1", p) for p in parts)


def _type(annotation: Any) -> str:  # noqa: ANN401 - types of fields have no common name
    annotation = getattr(annotation, "__value__", annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin in (Union, UnionType):
        inner = [each for each in arguments if each is not NoneType]
        if all(isinstance(each, type) and issubclass(each, BaseModel) for each in inner):
            return "section"
        return " or ".join(dict.fromkeys(map(_type, inner)))
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in arguments)
    if origin in (list, tuple):
        plain = [each for each in arguments if each is not ...]
        if origin is tuple and ... not in arguments:
            return f"list of {len(plain)}: {', '.join(dict.fromkeys(map(_type, plain)))}"
        return f"list of: {_type(plain[0])}"
    if origin is dict:
        return f"keys with values: {_type(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return _WORDS[annotation]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "absent"
    if isinstance(value, BaseModel):
        return _section_default(value)
    return f"`{_yaml(value)}`"


def _section_default(value: BaseModel) -> str:
    """Return what a default section differs in from its own defaults, with its kind."""
    kind = getattr(value, "kind", None)
    changed = value.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    shown = ({"kind": kind} if kind else {}) | {k: v for k, v in changed.items() if k != "kind"}
    return f"`{_yaml(shown)}`" if shown else "its defaults"


def _yaml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {_yaml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _range(field: FieldInfo) -> str:
    constraints = [*field.metadata, *_inner_constraints(field.annotation)]
    limits = [_limit(sign, each) for each in constraints for sign in _SIGNS]
    lengths = [_length(each) for each in constraints]
    return ", ".join(dict.fromkeys(each for each in [*limits, *lengths] if each))


def _inner_constraints(annotation: Any) -> Iterator[object]:  # noqa: ANN401 - see _type
    """Yield what is demanded of the items of a list, or of one of several types."""
    annotation = getattr(annotation, "__value__", annotation)
    if get_origin(annotation) is Annotated:
        for each in annotation.__metadata__:
            yield from each.metadata if isinstance(each, FieldInfo) else [each]
    if get_origin(annotation) is not Literal:
        for inner in get_args(annotation):
            yield from _inner_constraints(inner)


def _limit(sign: str, constraint: object) -> str:
    bound = getattr(constraint, sign, None)
    if bound is None or bound is PydanticUndefined:
        return ""
    return f"{_SIGNS[sign]} {bound:,}" if isinstance(bound, int) else f"{_SIGNS[sign]} {bound:g}"


def _length(constraint: object) -> str:
    pattern = getattr(constraint, "pattern", None)
    if pattern:
        return f"matches `{pattern}`"
    least = getattr(constraint, "min_length", None)
    most = getattr(constraint, "max_length", None)
    said = ["not empty" if least == 1 else f"length ≥ {least}"] if least else []
    return ", ".join([*said, *([f"length ≤ {most}"] if most else [])])
