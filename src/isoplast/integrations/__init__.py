"""Callbacks for Lightning, transformers and Stable-Baselines3, and isoplast in stacks that have none.

The callbacks are in a module for each framework, which imports it:
``isoplast.integrations.lightning``, ``.transformers`` and ``.stable_baselines3``.
"""

from isoplast.integrations._adapters import adapter_groups
from isoplast.integrations._follow import Follow
from isoplast.integrations._zero import zero_redundancy_optimizer

__all__ = ["Follow", "adapter_groups", "zero_redundancy_optimizer"]
