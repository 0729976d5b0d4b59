"""Defects to cut into complete skulls: drawn at random, or fixed sets of files."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
