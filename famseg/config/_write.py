"""Checked configurations as YAML text, as a JSON schema and as a list of differences."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import yaml

from famseg.config._entry import dotted
from famseg.config._strict import Strict
from famseg.config._yaml import FLOAT


def to_yaml(config: Strict, header: str = "") -> str:
    """Return a configuration as YAML from which an equal one can be read.

    Keys have the order of the fields, with ``kind`` first, and the names that users write
    (``lambda``). Texts that a YAML 1.1 or 1.2 reader would not read as text are quoted, and floats
    are written such that both read them as floats.

    Args:
        config: The configuration.
        header: Comment lines for the top, without ``#``.

    Example:
        >>> from pydantic import Field
        >>> class Penalty(Strict):
        ...     layer: str
        ...     weight: float = Field(alias="lambda", ge=0)
        >>> print(to_yaml(Penalty(layer="expand", weight=1e-5), header="resolved"), end="")
        # resolved
        layer: expand
        lambda: 1.0e-05
    """
    comment = "".join(f"# {line}".rstrip() + "\n" for line in header.splitlines())
    values = _kind_first(config.model_dump(mode="json", by_alias=True))
    return comment + yaml.dump(
        values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000
    )


def flatten(config: Strict) -> dict[str, object]:
    """Return all values by dotted key, in the order of the fields; lists stay whole.

    Example:
        >>> class Train(Strict):
        ...     epochs: int = 5
        >>> class Config(Strict):
        ...     seed: int = 0
        ...     train: Train = Train()
        >>> flatten(Config())
        {'seed': 0, 'train.epochs': 5}
    """
    return {dotted(key): value for key, value in _leaves(config.model_dump(mode="json"), ())}


def differences(a: Strict, b: Strict) -> list[str]:
    """Return the differences of two configurations, one line per key: ``lr: 0.001 -> 0.01``.

    Args:
        a: The old configuration.
        b: The new configuration.

    Example:
        >>> class Train(Strict):
        ...     epochs: int = 5
        >>> differences(Train(), Train(epochs=6))
        ['epochs: 5 -> 6']
    """
    before, after = flatten(a), flatten(b)
    return [
        f"{key}: {_value(before, key)} -> {_value(after, key)}"
        for key in dict.fromkeys([*before, *after])
        if _value(before, key) != _value(after, key)
    ]


def schema(config: type[Strict]) -> dict[str, object]:
    """Return the JSON schema of a pipeline's files, with which editors complete and check them.

    It has the names that users write, all descriptions, and the keys that a file may have besides
    the sections: ``extends`` (required keys may then come from the other file) and the short
    ``lambda``.

    Args:
        config: The section for a whole document.
    """
    result = config.model_json_schema(by_alias=True, mode="validation")
    properties = result.setdefault("properties", {})
    properties["extends"] = {
        "type": "string",
        "description": "A file whose keys this one overrides",
    }
    if "penalty" in properties:
        properties["lambda"] = {"type": "number", "description": "Stands for penalty.lambda"}
    if "required" in result:
        result["if"] = {"not": {"required": ["extends"]}}
        result["then"] = {"required": result.pop("required")}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **result}


def _kind_first(value: object) -> object:
    """Return ``value`` with the ``kind`` of each section before its other keys."""
    if isinstance(value, list):
        return [_kind_first(item) for item in value]
    if not isinstance(value, dict):
        return value
    front = {"kind": value["kind"]} if "kind" in value else {}
    return {key: _kind_first(inner) for key, inner in {**front, **value}.items()}


def _leaves(value: object, key: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], object]]:
    if isinstance(value, Mapping) and (value or not key):
        for name, inner in value.items():
            yield from _leaves(inner, (*key, name))
    else:
        yield key, value


def _value(values: Mapping[str, object], key: str) -> str:
    """Return a value in file notation, or ``absent``."""
    if key not in values:
        return "absent"
    text = yaml.dump(values[key], Dumper=_Dumper, default_flow_style=True, width=10_000)
    return text.removesuffix("...\n").strip()


class _Dumper(yaml.SafeDumper):
    """PyYAML's dumper, with output for readers of YAML 1.1 and 1.2."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_float(dumper: yaml.SafeDumper, value: float) -> yaml.Node:
    text = repr(value)
    if "e" in text and "." not in text:  # YAML 1.1 reads 1e-05 as text
        text = text.replace("e", ".0e")
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


def _represent_list(dumper: yaml.SafeDumper, value: list[object]) -> yaml.Node:
    flat = not any(isinstance(item, list | dict) for item in value)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=flat)


_Dumper.add_representer(float, _represent_float)
_Dumper.add_representer(list, _represent_list)
# Numbers of YAML 1.2, so that a text like 1e-4 is written with quotes.
_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(rf"(?:{FLOAT.pattern}|0o[0-7]+|0x[0-9a-fA-F]+)$"),
    list("-+0123456789."),
)
