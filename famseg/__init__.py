"""Relative flatness aware minimization (FAM) for skull reconstruction and beyond."""

__version__ = "0.1.0"
