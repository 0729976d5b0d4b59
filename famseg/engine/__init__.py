"""Training with MONAI's engines: exact resume, atomic checkpoints, several processes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
