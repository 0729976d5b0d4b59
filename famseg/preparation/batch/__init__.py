"""Preparation of many subjects: worker processes, records, manifest, splits and quality report."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
