from __future__ import annotations

import shells
from threadpoolctl import threadpool_info, threadpool_limits

from famseg.reconstruction import _fill, plate
from famseg.reconstruction._threads import one_thread


def threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info()}


def test_libraries_keep_to_one_thread_and_get_theirs_back():
    with threadpool_limits(2):
        with one_thread():
            assert threads() == {1}
        assert threads() == {2}


def test_plates_are_laid_on_one_thread(monkeypatch):
    seen = []
    solve = _fill.linalg.solveh_banded
    monkeypatch.setattr(
        _fill.linalg, "solveh_banded", lambda *a, **k: seen.append(threads()) or solve(*a, **k)
    )
    shape, affine = shells.grid((3.5, 3.5, 3.5))
    where = shells.points(shape, affine)
    whole, region = shells.shell(where), shells.hole(where, (0.9, 0.2, 0.6), 16.0)
    with threadpool_limits(2):
        plate(whole & ~region, affine, region)
    assert seen
    assert all(each == {1} for each in seen)
