"""Write a CT series of a phantom head: ``make_dicom.py FOLDER``; run in the image under test."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "preparation"))

from dicom_maker import ct

ct().write(Path(sys.argv[1]))
