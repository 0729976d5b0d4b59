"""Metrics of binary masks: overlap, surface distances and shape, in mm; needs numpy and scipy only."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
