"""The steps from one scan to one skull: bone, cleaning, alignment, the final grid, checks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
