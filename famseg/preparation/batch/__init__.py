"""Many subjects at once: processes, records, the manifest, its splits and the quality report."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
