"""Completion of partial sections from their defaults."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from famseg.config._entry import Entry, Fault, Place, kinds_differ, merge
from famseg.config._sections import allows_none, alternatives, kinds, names, only_text, sections


def complete(
    entry: Entry, config: type[BaseModel], rivals: Sequence[type[BaseModel]] = ()
) -> Entry:
    """Return ``entry`` merged into the defaults of the sections that it specifies partially.

    Pydantic replaces a default section as a whole. Here ``optimizer: {lr: 0.01}`` changes the rate
    of the default optimizer and keeps its kind and other keys; another ``kind`` discards the
    default. A value from the command line becomes a text if its key expects one.

    Args:
        entry: A section of the document; it is not changed.
        config: The type of the section.
        rivals: Types of other kinds that the section may turn out to be.
    """
    completed = _as_typed(entry, config, rivals)
    for name, field in names(config).items():
        given = completed.get(name)
        if given is None or not isinstance(given.value, dict):
            continue
        base = _default(field, given.place)
        if base is not None and not kinds_differ(base, given):
            given = merge(base, given)
        types = sections(alternatives(field.annotation))
        kind = given.keys.get("kind")
        tagged = kinds(types)
        chosen = [tagged[str(kind.value)]] if kind and str(kind.value) in tagged else types
        if len(chosen) == 1:
            completed[name] = complete(given, chosen[0], types)
        else:
            completed[name] = Entry(_as_typed(given, None, types), given.place)
    return Entry(completed, entry.place)


def _as_typed(
    entry: Entry, config: type[BaseModel] | None, rivals: Sequence[type[BaseModel]]
) -> dict[str, Entry]:
    """Return the keys of a section, as typed where only a text is expected.

    A key that the section does not have is judged by the rivals: with ``root`` a section becomes
    one of the kind ``folder``.
    """
    keys = dict(entry.keys)
    for name, given in keys.items():
        own = [config] if config is not None and name in names(config) else rivals
        fields = [names(each)[name] for each in own if name in names(each)]
        if given.typed is not None and fields and all(_expects_text(f, given) for f in fields):
            keys[name] = given.as_text()
    return keys


def _expects_text(field: FieldInfo, given: Entry) -> bool:
    """Return whether a key accepts only text (or null, unless it is from the command line)."""
    if given.value is None and allows_none(field.annotation):
        return False
    return only_text(field.annotation)


def settle_lambda(root: Entry) -> tuple[Entry, list[Fault]]:
    """Accept only lambda = 0 if there is no penalty (the baseline of a comparison)."""
    penalty = root.keys.get("penalty")
    kind = penalty.keys.get("kind") if penalty else None
    weight = penalty.keys.get("lambda") if penalty else None
    if penalty is None or kind is None or kind.value != "none" or weight is None:
        return root, []
    kept = {key: entry for key, entry in penalty.keys.items() if key != "lambda"}
    root = Entry({**root.keys, "penalty": Entry(kept, penalty.place)}, root.place)
    if weight.value == 0 and not isinstance(weight.value, bool):
        return root, []
    message = (
        "has no effect, since penalty.kind is none. Choose a penalty with penalty.kind, or "
        "set lambda to 0."
    )
    return root, [Fault(weight.place, ("penalty", "lambda"), message)]


def _default(field: FieldInfo, place: Place) -> Entry | None:
    """Return the default of a field as an entry, or None if it is not a section."""
    if field.default_factory_takes_validated_data:
        return None
    default = field.get_default(call_default_factory=True)
    if not isinstance(default, BaseModel):
        return None
    return _entry(default.model_dump(mode="json", by_alias=True), place)


def _entry(value: object, place: Place) -> Entry:
    if isinstance(value, dict):
        return Entry({str(key): _entry(inner, place) for key, inner in value.items()}, place)
    if isinstance(value, list):
        return Entry([_entry(inner, place) for inner in value], place)
    if value is None or isinstance(value, str | int | float):
        return Entry(value, place)
    raise TypeError(f"the default of a section is not a JSON value: {value!r}")
