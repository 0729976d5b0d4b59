from __future__ import annotations

import subprocess
import sys
from typing import get_origin

import famseg.evaluation


def test_every_public_name_is_there():
    for name in famseg.evaluation.__all__:
        value = getattr(famseg.evaluation, name)
        assert value.__doc__ or get_origin(value), name  # types have their text in the source


def test_the_import_brings_in_nothing_heavy():
    heavy = {"torch", "monai", "matplotlib", "scipy", "SimpleITK"}
    code = f"import sys, famseg.evaluation; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
