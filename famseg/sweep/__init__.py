"""Sweeps: many runs from one configuration, where they run, and their progress."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
