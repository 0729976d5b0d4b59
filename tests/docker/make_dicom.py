"""Write a CT series of a phantom head: ``make_dicom.py FOLDER``; run in the image under test."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "preparation"))

from dicom_maker import ct

if __name__ == "__main__":
    ct().write(Path(sys.argv[1]))
