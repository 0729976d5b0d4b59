"""Solids of known shape for the tests of meshes stand in ``solids.py`` beside this file."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
