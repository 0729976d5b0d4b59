"""Tracking: MLflow, the local record of a run and its provenance.

MLflow is imported when a run starts, not with this package. A store that fails never stops a
training: what could not be sent is kept and sent later, and the run folder has it anyway.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
