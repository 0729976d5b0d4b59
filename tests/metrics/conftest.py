"""Makes masks known to the tests."""

from masks import ball, blob, box  # noqa: F401 -- fixtures
