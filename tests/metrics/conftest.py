"""Fixtures of masks."""

from masks import ball, blob, box  # noqa: F401 -- fixtures
