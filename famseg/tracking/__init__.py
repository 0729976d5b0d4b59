"""Tracking: MLflow, the local record of a run and its provenance.

MLflow is imported when a run starts, not with this package. A failing store never stops a training:
unsent entries are kept and sent later, and the run folder contains them anyway.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
