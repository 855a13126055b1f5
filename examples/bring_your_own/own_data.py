"""Data of one's own in a study: arrays in a file, or arrays as they are.

    python own_data.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from isoplast.data import save_data
from isoplast.study import Run, Study, load_study, run_study

rng = np.random.default_rng(0)
inputs = rng.standard_normal((200, 8)).astype(np.float32)
targets = rng.integers(0, 4, 200)

with tempfile.TemporaryDirectory() as folder:
    file = save_data(Path(folder, "mine.npz"), inputs, targets)
    run = Run(
        stream={"name": "random-labels", "tasks": 2},
        data={"name": "file", "path": str(file)},
        net={"name": "mlp", "width": 16},
        learner={"name": "supervised", "epochs": 2},
        instruments=False,
    )
    run_study(Study("mine", [run]), Path(folder, "runs"))
    print(load_study(Path(folder, "runs")).select("task", "score", "chance"))
