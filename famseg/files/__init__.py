"""Files: atomic writing, CSV, and safe reading of archives, JSON and pickles."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
