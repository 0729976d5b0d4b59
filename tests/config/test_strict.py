from __future__ import annotations

import pytest
from pydantic import Field, ValidationError

from famseg.config import Strict


class Section(Strict):
    count: int = 1
    weight: float = Field(0.0, alias="lambda")


def test_sections_are_frozen():
    section = Section()
    with pytest.raises(ValidationError, match="Instance is frozen"):
        section.count = 2


def test_unknown_keys_are_refused():
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Section(cuont=1)


@pytest.mark.parametrize("value", ["1", 1.0, True, None])
def test_types_are_not_converted(value):
    with pytest.raises(ValidationError, match="valid integer"):
        Section(count=value)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_numbers_are_finite(value):
    with pytest.raises(ValidationError, match="finite number"):
        Section(weight=value)


def test_python_may_use_both_names_and_dumps_use_the_alias():
    assert Section(weight=2) == Section(**{"lambda": 2})
    assert Section(weight=2).model_dump() == {"count": 1, "lambda": 2.0}
