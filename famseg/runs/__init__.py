"""A run folder: its files, its owner and the state of its run; does not need torch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
