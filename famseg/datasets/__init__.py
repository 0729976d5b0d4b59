"""Skulls, pictures and texts: readers, synthetic stand-ins, splits and data sets."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
