"""Many runs from one configuration: what to try, where to run it, and how far it came."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
