"""The base of every configuration section."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A configuration section: frozen, unknown keys are errors, no silent conversion of types.

    A field whose YAML name is not a valid Python name has an alias (``lambda``). Users write and
    read only the alias: files accept no other name, and output uses it. Python code may use either
    name.

    Example:
        >>> from pydantic import Field
        >>> class Penalty(Strict):
        ...     weight: float = Field(alias="lambda", ge=0)
        >>> Penalty(weight=1).model_dump()
        {'lambda': 1.0}
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        allow_inf_nan=False,
    )
