"""Random-label memorisation: the same images, new meaningless labels for every task."""

from __future__ import annotations

import torch

from isoplast.streams._base import DataStream, Task, register


@register("random-labels")
class RandomLabels(DataStream):
    r"""Every task redraws all labels, uniformly and independently.

    .. math:: y_i^{(t)} \sim \mathrm{Uniform}\{0, \dots, C - 1\}

    Nothing carries over from one task to the next, so the accuracy reached on a task measures plasticity
    alone. The labels of the data are not used, and there is nothing to generalise to, hence no test part.

    Reference: arXiv:2606.09762, section 6, random-label memorisation.
    """

    def _make(self, index: int) -> Task:
        labels = self._bits(index, len(self.data.inputs)) % self.classes
        return Task(index, self.data.inputs, torch.from_numpy(labels.astype("int64")), self.classes)
