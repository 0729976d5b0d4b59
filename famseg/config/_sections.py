"""The types, descriptions and kinds of keys in the sections of a configuration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from famseg.config._entry import Key

# Types of fields are instances of many classes (unions, aliases, generics) without a common type
Types = tuple[Any, ...]


@dataclass(frozen=True)
class Spot:
    """A position in a document with the types that the sections allow there.

    Args:
        key: The path to it, without pydantic's tags for members of unions.
        types: The types allowed, without None.
        owner: The types of the section that contains it; one if the kind of the section is known.
        rivals: The same before selection by kind.
        choice: Position on the path where pydantic chose between plain types; None if it did not.
        branch: Pydantic's label of the type that was tried there.
    """

    key: Key
    types: Types
    owner: Types = ()
    rivals: Types = ()
    choice: Key | None = None
    branch: str = ""


def locate(location: Sequence[str | int], config: type[BaseModel], values: object) -> Spot:
    """Return the spot of an error from pydantic's ``location``."""
    types: Types = (config,)
    rivals: Types = types
    spot = Spot((), types)
    for part in location:
        tagged = kinds(types)
        if len(types) > 1 and part in tagged:
            types = (tagged[str(part)],)
            spot = replace(spot, types=types)
        elif len(types) > 1 and not _holds(values, part):  # a label of pydantic, such as list[int]
            types = tuple(t for t in types if getattr(t, "__name__", None) == part) or types
            spot = replace(spot, types=types, choice=spot.key, branch=str(part))
        else:
            inner = _inner(types, part)
            spot = Spot((*spot.key, part), inner, types, rivals, spot.choice, spot.branch)
            values = _step(values, part)
            types = rivals = inner
    return spot


def names(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of a section by the names that users write."""
    return {shown_name(name, field): field for name, field in section.model_fields.items()}


def shown_name(name: str, field: FieldInfo) -> str:
    """Return the name that users write for a field: its alias if it has one."""
    return field.alias or name


def alternatives(annotation: Any) -> Types:  # noqa: ANN401 - see Types
    """Return the types that an annotation allows, without None and without metadata."""
    annotation = getattr(annotation, "__value__", annotation)  # a type alias
    origin = _origin(annotation)
    if origin is Annotated:
        return alternatives(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return tuple(inner for each in get_args(annotation) for inner in alternatives(each))
    return () if annotation in (None, NoneType) else (annotation,)


def allows_none(annotation: Any) -> bool:  # noqa: ANN401 - see Types
    """Return whether an annotation allows None."""
    annotation = getattr(annotation, "__value__", annotation)  # a type alias
    if _origin(annotation) is Annotated:
        return allows_none(get_args(annotation)[0])
    if _origin(annotation) in (Union, UnionType):
        return any(allows_none(each) for each in get_args(annotation))
    return annotation in (None, NoneType)


def only_text(annotation: Any) -> bool:  # noqa: ANN401 - see Types
    """Return whether an annotation allows only texts and paths, apart from None."""
    types = alternatives(annotation)
    words = [each for each in types if _origin(each) is Literal]
    texts = all(isinstance(word, str) for each in words for word in get_args(each))
    return bool(types) and texts and all(each in (str, Path) or each in words for each in types)


def kinds(types: Iterable[Any]) -> dict[str, type[BaseModel]]:
    """Return the sections among ``types`` by the values of their field ``kind``."""
    return {
        str(value): section
        for section in sections(types)
        if "kind" in section.model_fields
        for choice in alternatives(section.model_fields["kind"].annotation)
        if _origin(choice) is Literal
        for value in get_args(choice)
    }


def sections(types: Iterable[Any]) -> list[type[BaseModel]]:
    """Return those of ``types`` that are sections."""
    return [each for each in types if isinstance(each, type) and issubclass(each, BaseModel)]


def all_keys(config: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield every key that a document may have, for every kind, except those within lists."""
    if len(above) > 8:  # a section may contain one of its own type
        return
    for name, field in names(config).items():
        yield (*above, name)
        for section in sections(alternatives(field.annotation)):
            yield from all_keys(section, (*above, name))


def _origin(annotation: Any) -> Any:  # noqa: ANN401 - see Types
    return get_origin(annotation)  # typeshed's overloads narrow it too much


def _inner(types: Types, part: str | int) -> Types:
    """Return the types allowed for one item of a value of one of ``types``."""
    found: list[Any] = []
    for each in types:
        origin = _origin(each)
        arguments = get_args(each)
        if isinstance(each, type) and issubclass(each, BaseModel):
            if part in names(each):
                found += alternatives(names(each)[str(part)].annotation)
        elif origin is tuple and arguments[-1:] != (...,) and isinstance(part, int):
            found += [inner for each in arguments[part : part + 1] for inner in alternatives(each)]
        elif origin is dict and len(arguments) == 2:
            found += alternatives(arguments[1])
        elif arguments and origin is not Literal and isinstance(part, int):
            found += alternatives(arguments[0])
    return tuple(found)


def _holds(values: object, part: str | int) -> bool:
    if isinstance(values, Mapping):
        return part in values
    return isinstance(values, list) and isinstance(part, int) and part < len(values)


def _step(values: object, part: str | int) -> object:
    if isinstance(values, Mapping):
        return values.get(part)
    if isinstance(values, list) and isinstance(part, int) and part < len(values):
        return values[part]
    return None
