"""Preparation of CT scans and public collections as aligned binary skulls with a manifest."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
