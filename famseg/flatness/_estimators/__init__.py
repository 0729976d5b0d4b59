"""Estimators of relative flatness, and the choice of one for a pass."""
