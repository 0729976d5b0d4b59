"""Fixtures of small volumes and their files."""

from volume_files import blob, save  # noqa: F401 -- fixtures
