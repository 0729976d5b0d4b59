"""Relative flatness aware minimization (FAM) for skull reconstruction and beyond."""

import os

__version__ = "0.1.0"

# Before either is imported, which is when they read it: nothing is reported to anybody.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "true")
