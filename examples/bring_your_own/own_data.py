"""Data of one's own in a study: arrays are written to a file once, and named by it from then on.

python own_data.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from isoplast.data import Dataset, save_data
from isoplast.study import Run, Study, load_study, run_study

rng = np.random.default_rng(0)
inputs = rng.standard_normal((200, 8)).astype(np.float32)
targets = rng.integers(0, 4, 200)

with tempfile.TemporaryDirectory() as folder:
    # In YAML the same file is `data: {name: file, path: mine.npz}`.
    data = save_data(Path(folder, "mine.npz"), Dataset(inputs, targets, name="mine"))
    small = {"net": {"name": "mlp", "width": 16}, "learner": {"name": "supervised", "epochs": 2}}
    run = Run(stream={"name": "random-labels", "tasks": 2}, data=data, instruments=False, **small)
    run_study(Study("mine", [run]), Path(folder, "runs"))
    print(load_study(Path(folder, "runs")).select("task", "score", "chance"))
