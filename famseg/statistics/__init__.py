"""Statistics of scores: intervals, paired tests, effect sizes; a failure counts as a failure.

Each function takes one value per case. ``failed`` marks the cases without a usable prediction. They
are
never dropped: a failed case enters with the score it has, which the rule for empty masks has set
to the worst (``famseg.metrics.score``), or with ``worst`` where that is given. NaN is refused
unless its case is said to have failed and ``worst`` says what it counts.

Everything is a pure function of its arguments: randomness comes from ``generator``, by default a
new one of seed 0 at each call.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
