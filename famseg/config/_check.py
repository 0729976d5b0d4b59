"""Validation of values against sections, with readable versions of pydantic's errors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TypeVar, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from famseg.config._entry import Key, dotted
from famseg.config._sections import Spot, all_keys, kinds, locate, names, sections, shown_name
from famseg.config._strict import Strict
from famseg.config._yaml import FLOAT
from famseg.messages import InputError, listed, near, one_line

T = TypeVar("T", bound=Strict)

_TYPES = {
    "float_type": "a number",
    "float_parsing": "a number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a text",
    "path_type": "a path",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "keys with values",
    "model_type": "keys with values",
    "model_attributes_type": "keys with values",
    "finite_number": "a finite number",
}
_BOUNDS = {
    "greater_than_equal": "at least {ge}",
    "greater_than": "greater than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "multiple_of": "a multiple of {multiple_of}",
}
_SIZES = {
    "too_short": "needs at least {min_length} items, got {actual_length}",
    "too_long": "takes at most {max_length} items, got {actual_length}",
    "string_too_short": "needs at least {min_length} characters, got {got}",
    "string_too_long": "takes at most {max_length} characters, got {got}",
    "string_pattern_mismatch": "must match the pattern {pattern}, got {got}",
}
_LONGEST = 60
_MOST = 100  # a file with more errors than that is the wrong file


def check(values: Mapping[str, object], config: type[T]) -> tuple[T | None, list[tuple[Key, str]]]:
    """Return the configuration, or None and the errors: keys with messages.

    Args:
        values: The document: dicts, lists and scalars.
        config: The section for the whole document.
    """
    try:
        # As JSON, because pydantic's strict mode then accepts lists for tuples and texts for paths;
        # only by alias, since `weight` is not a key in files.
        return config.model_validate_json(json.dumps(values), by_alias=True, by_name=False), []
    except InputError as error:  # raised by a validator that uses an invalid value
        return None, [((), fault) for fault in error.faults]
    except ValidationError as error:
        return None, _translate(error.errors(include_url=False), config, values)


def describe(value: object) -> str:
    """Return the description of a value in a message.

    Example:
        >>> describe("fast"), describe(0.5), describe(None), describe({"a": 1})
        ("the text 'fast'", '0.5', 'nothing', 'keys with values (a)')
    """
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f"the text {one_line(repr(value), _LONGEST)}"
    if isinstance(value, Mapping):
        names_of_keys = one_line(", ".join(value), _LONGEST)
        return f"keys with values ({names_of_keys})" if value else "empty braces"
    if isinstance(value, list):
        return f"the list {one_line(json.dumps(value), _LONGEST)}"
    return one_line(str(value).lower(), _LONGEST)  # true, inf, 1e-05


def _translate(
    errors: list[ErrorDetails], config: type[Strict], values: Mapping[str, object]
) -> list[tuple[Key, str]]:
    found: list[tuple[Key, str]] = []
    choices: dict[Key, list[tuple[Spot, ErrorDetails]]] = {}
    for error in errors[:_MOST]:
        spot = locate(error["loc"], config, values)
        if spot.choice is None:
            found.append(_message(spot, error, config))
        else:
            choices.setdefault(spot.choice, []).append((spot, error))
    for key, members in choices.items():
        found += _message_of_choice(key, members, config)
    if len(errors) > _MOST:
        found.append(((), f"and {len(errors) - _MOST} more errors"))
    return found


def _message_of_choice(
    key: Key, members: list[tuple[Spot, ErrorDetails]], config: type[Strict]
) -> list[tuple[Key, str]]:
    """Return one message for a value that matches none of several plain types."""
    inside: dict[str, list[tuple[Spot, ErrorDetails]]] = {}
    for spot, error in members:
        if len(spot.key) > len(key):
            inside.setdefault(spot.branch, []).append((spot, error))
    if inside:  # it has the shape of one of them: report the errors for the best match
        best = min(inside.values(), key=len)
        return [_message(spot, error, config) for spot, error in best]
    expected = dict.fromkeys(_expected(error) or error["msg"] for _, error in members)
    got = describe(members[0][1]["input"])
    return [(key, f"expected {' or '.join(expected)}, got {got}")]


def _message(spot: Spot, error: ErrorDetails, config: type[Strict]) -> tuple[Key, str]:
    """Return the key and the message of one error."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return (*spot.key, "kind"), _unknown_kind(spot, value)
    if kind == "missing" and isinstance(spot.key[-1], int):  # a tuple of fixed length
        needed = max(len(get_args(each)) for each in spot.owner)
        return spot.key[:-1], f"needs {needed} items, got {len(value)}"
    if kind == "missing":
        message = _missing(spot)
    elif kind == "extra_forbidden":
        message = _unknown_key(spot, config)
    elif kind in ("value_error", "assertion_error"):
        message = one_line(" ".join(str(context.get("error", error["msg"])).split()), 1000)
    elif kind in _SIZES and context.get("min_length") == 1:
        message = "must not be empty"
    elif kind in _SIZES:
        message = _SIZES[kind].format(**context, got=describe(value))
    elif kind == "literal_error":
        choices = [str(each) for literal in spot.types for each in get_args(literal)]
        message = _one_of(choices, value)
    elif kind in _BOUNDS:
        message = f"must be {_expected(error)}, got {describe(value)}"
    elif kind in _TYPES:
        message = f"expected {_TYPES[kind]}, got {describe(value)}{_type_advice(spot, error)}"
    else:
        message = one_line(f"{error['msg']}, got {describe(value)}", 1000)
    return spot.key, message


def _expected(error: ErrorDetails) -> str | None:
    """Return what was expected, or None if that needs a whole sentence."""
    kind, context = error["type"], error.get("ctx", {})
    if kind in _BOUNDS:
        return _BOUNDS[kind].format(**{k: str(v).removesuffix(".0") for k, v in context.items()})
    if kind == "literal_error":
        return str(context["expected"])
    return _TYPES.get(kind)


def _type_advice(spot: Spot, error: ErrorDetails) -> str:
    value, expected = error["input"], _TYPES[error["type"]]
    if isinstance(value, str) and "number" in expected and FLOAT.fullmatch(value):
        return ". Remove the quotes."
    if isinstance(value, float) and "whole" in expected and value.is_integer():
        return f". Write {int(value)}."
    if isinstance(value, str) and value in kinds(spot.types):
        return f". Did you mean {dotted((*spot.key, 'kind'))}?"
    if isinstance(value, int | float) and expected == "a text":
        return ". Put quotes around it."
    return ""


def _missing(spot: Spot) -> str:
    """Return the message for a missing key."""
    for section in sections(spot.owner):
        field = names(section).get(str(spot.key[-1]))
        if field is not None and field.description:
            return f"missing. Add it: {field.description}"
    return "missing. Add it."


def _unknown_kind(spot: Spot, value: object) -> str:
    known = kinds(spot.types)
    kind = value.get("kind") if isinstance(value, Mapping) else None
    return f"missing. Choose one of {listed(known)}." if kind is None else _one_of(known, kind)


def _one_of(choices: Iterable[str], value: object) -> str:
    choices = list(choices)
    meant = near(value, choices) if isinstance(value, str) else None
    message = f"must be one of {listed(choices)}, got {describe(value)}"
    return message if meant is None else f"{message}. Did you mean {meant}?"


def _unknown_key(spot: Spot, config: type[Strict]) -> str:
    """Return the message for an unknown key, with the most similar known one."""
    name = str(spot.key[-1])
    own = sections(spot.owner)
    for section in own:
        if name in section.model_fields:  # the Python name of a field that users know by its alias
            meant = str(section.model_fields[name].alias)
            return f"unknown key (did you mean {dotted((*spot.key[:-1], meant))}?)"
    rivals = kinds(spot.rivals)
    owners = [
        kind
        for kind, section in rivals.items()
        if name in names(section) or name in section.model_fields
    ]
    if owners:
        active = [kind for kind, section in rivals.items() if section in own]
        return f"unknown key for kind {listed(active)} (it belongs to {listed(owners)})"
    keys = dict.fromkeys(all_keys(config))
    if any(key[-1] == name for key in keys):
        meant = " or ".join([dotted(key) for key in keys if key[-1] == name][:3])
        return f"unknown key (did you mean {meant}?)"
    if "." in name:
        return "unknown key (dotted keys are for the command line: nest the sections in a file)"
    # Including Python names, since a mistyped `weight` means `lambda`.
    known = {
        alias: shown_name(field_name, field)
        for section in own
        for field_name, field in section.model_fields.items()
        for alias in (field_name, shown_name(field_name, field))
    }
    here = near(name, known)
    if here is not None:
        return f"unknown key (did you mean {dotted((*spot.key[:-1], known[here]))}?)"
    there = near(name, (key[-1] for key in keys), cutoff=0.8)
    if there is not None:
        return f"unknown key (did you mean {dotted(next(k for k in keys if k[-1] == there))}?)"
    return f"unknown key (known: {listed(dict.fromkeys(known.values()))})"
