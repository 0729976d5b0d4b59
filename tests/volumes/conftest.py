"""Makes small volumes and their files known to the tests."""

from volume_files import blob, save  # noqa: F401 -- fixtures
