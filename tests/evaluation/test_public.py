from __future__ import annotations

import subprocess
import sys

import famseg.evaluation


def test_every_public_name_is_there():
    for name in famseg.evaluation.__all__:
        assert getattr(famseg.evaluation, name).__doc__


def test_the_import_brings_in_nothing_heavy():
    heavy = {"torch", "monai", "matplotlib", "scipy", "SimpleITK"}
    code = f"import sys, famseg.evaluation; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
