"""What the scores of several seeds say: averages with intervals, paired comparisons, failures counted.

Functions on arrays of shape (seeds, tasks), each row one run; needs numpy and scipy (`isoplast[bench]`).

Example:
    >>> import numpy as np
    >>> scores = np.array([[0.9, 0.8, 0.7], [0.9, 0.9, 0.8], [0.8, 0.7, 0.6]])
    >>> print(mean(average(scores)))
    0.7889 [0.5805, 0.9973] (3 seeds, exploratory)
"""

from isoplast.statistics._comparison import (
    Comparison,
    compare,
    compare_all,
    false_discovery_rate,
    holm,
    minimum_detectable_effect,
)
from isoplast.statistics._estimates import (
    EXPLORATORY_BELOW,
    Curve,
    Estimate,
    aggregate,
    curve,
    interquartile_mean,
    mean,
)
from isoplast.statistics._frame import Scores, method_scores, method_table
from isoplast.statistics._normalised import normalised_scores
from isoplast.statistics._shares import performance_profile, probability_of_improvement
from isoplast.statistics._summaries import (
    area,
    average,
    change,
    fill_failures,
    forward_transfer,
    last,
    slope,
)

__all__ = [
    "EXPLORATORY_BELOW",
    "Comparison",
    "Curve",
    "Estimate",
    "Scores",
    "aggregate",
    "area",
    "average",
    "change",
    "compare",
    "compare_all",
    "curve",
    "false_discovery_rate",
    "fill_failures",
    "forward_transfer",
    "holm",
    "interquartile_mean",
    "last",
    "mean",
    "method_scores",
    "method_table",
    "minimum_detectable_effect",
    "normalised_scores",
    "performance_profile",
    "probability_of_improvement",
    "slope",
]
