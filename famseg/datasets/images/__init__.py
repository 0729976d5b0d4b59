"""Labeled images: readers of the original formats, splits, and augmentation of whole batches."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
