"""Messages for users: the two errors, counted nouns, similar names, safe text, tables."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
