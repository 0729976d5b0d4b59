"""Statistics of scores: intervals, paired tests, effect sizes; a failure counts as a failure.

Each function takes one value per case. ``failed`` marks the cases without a usable prediction. They
are never dropped: a failed case counts with its score, which the rule for empty masks has set to
the worst (``famseg.metrics.score``), or with ``worst`` if it is given. NaN is refused unless the
case is marked as failed and ``worst`` is given. All functions are pure: randomness comes from
``generator``, by default a new one with seed 0 at each call.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
