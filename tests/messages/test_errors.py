from __future__ import annotations

import pickle

import pytest

from famseg.config._yaml import parse
from famseg.messages import InputError


def test_one_line_a_fault():
    error = InputError("a: wrong.", "b: wrong.")
    assert error.faults == ("a: wrong.", "b: wrong.")
    assert str(error) == "a: wrong.\nb: wrong."


def test_faults_survive_the_way_to_another_process():
    again = pickle.loads(pickle.dumps(InputError("a: wrong.", "b: wrong.")))  # noqa: S301 - ours
    assert type(again) is InputError
    assert again.faults == ("a: wrong.", "b: wrong.")


def test_errors_of_the_reader_survive_it_too():
    with pytest.raises(InputError) as caught:
        parse("a: [", "a.yaml")
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - ours
    assert again.faults == caught.value.faults
