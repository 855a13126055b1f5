"""Contracts that parts of one's own can be held to, by ours and anybody's tests; needs no test framework.

Example:
    >>> from isoplast.methods import get
    >>> check_method(get("redo", every=5, tau=0.5), networks=["mlp", "agent"])
    >>> from isoplast.streams import problem
    >>> check_stream(problem("random-labels", tasks=3))
"""

from isoplast.testing._methods import check_method
from isoplast.testing._networks import NETWORKS, Network
from isoplast.testing._streams import check_stream, made_up_data, made_up_text

__all__ = ["NETWORKS", "Network", "check_method", "check_stream", "made_up_data", "made_up_text"]
