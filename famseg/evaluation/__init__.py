"""Evaluation: metrics with units, case by case, against baselines; tables and images of them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
