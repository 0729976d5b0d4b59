"""Statistics of scores: intervals, paired tests, effect sizes; a failure counts as a failure.

Each function takes one score a case. ``failed`` names the cases without a usable answer. They are
never dropped: a failed case enters with the score it has, which the rule for empty masks has set
to the worst (``famseg.evaluation.score``), or with ``worst`` where that is given. NaN is refused
unless its case is said to have failed and ``worst`` says what it counts.

Everything is a pure function of its arguments: randomness comes from ``generator``, by default a
new one of seed 0 at each call.
"""

from famseg.evaluation._comparison import Comparison, compare
from famseg.evaluation._intervals import (
    Interval,
    bootstrap_interval,
    table_row,
    wilson_interval,
    with_failures,
)
from famseg.evaluation._paired import (
    EffectSize,
    PairedTest,
    effect_size,
    holm,
    paired_differences,
    permutation_test,
    wilcoxon,
)
from famseg.evaluation._power import detectable_difference, pairs_needed

__all__ = [
    "Comparison",
    "EffectSize",
    "Interval",
    "PairedTest",
    "bootstrap_interval",
    "compare",
    "detectable_difference",
    "effect_size",
    "holm",
    "paired_differences",
    "pairs_needed",
    "permutation_test",
    "table_row",
    "wilcoxon",
    "wilson_interval",
    "with_failures",
]
