"""Makes masks and toy cases known to the tests."""

from __future__ import annotations

import sys
from pathlib import Path

from masks import ball, blob, box  # noqa: F401 -- fixtures

sys.path.insert(0, str(Path(__file__).parent))
