"""Keeps the numerical libraries of a reconstruction on one thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import ThreadpoolController


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep BLAS and OpenMP, and with it torch on the CPU, on one thread; also as a decorator.

    The matrices and volumes of a reconstruction are so small that a second thread mostly waits
    for the first one, and waiting takes processor time: where other programs use the cores, fifty
    times that of the computation. Results then do not depend on the number of cores, either.
    """
    with ThreadpoolController().limit(limits=1):  # of the libraries that are loaded by now: 10 ms
        yield
