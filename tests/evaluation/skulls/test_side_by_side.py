from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from famseg.evaluation.skulls._side_by_side import leaving_cores, side_by_side, workers_for


def test_results_come_in_order_from_processes_of_their_own() -> None:
    offset = lambda x: x + 100  # noqa: E731 - a function that cannot be pickled
    found = list(side_by_side(lambda x: (offset(x), os.getpid()), range(12), 2))
    assert [value for value, _ in found] == list(range(100, 112))
    pids = {pid for _, pid in found}
    assert os.getpid() not in pids
    assert 1 <= len(pids) <= 2


def test_one_worker_is_this_process() -> None:
    assert set(side_by_side(lambda _: os.getpid(), range(3), 1)) == {os.getpid()}


def test_items_are_made_a_few_ahead_and_no_more() -> None:
    made = []

    def items() -> Iterator[int]:
        for number in range(50):
            made.append(number)
            yield number

    found = side_by_side(abs, items(), 2)
    assert next(found) == 0
    found.close()
    assert len(made) <= 4


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_is_raised_as_it_is(workers: int) -> None:
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        list(side_by_side(lambda x: 1 / x, [2, 1, 0, 3], workers))


def test_few_cases_and_several_processes_are_scored_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert workers_for(7, 1) == 1
    assert workers_for(8, 1) == 4
    assert workers_for(50, 2) == 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert workers_for(50, 1) == 1


def test_predictions_leave_cores_to_the_processes_that_score() -> None:
    before = torch.get_num_threads()
    try:
        for threads, workers, expected in ((8, 8, 2), (2, 2, 1), (8, 1, 8)):
            torch.set_num_threads(threads)
            with leaving_cores(workers):
                assert torch.get_num_threads() == expected
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
