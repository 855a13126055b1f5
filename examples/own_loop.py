"""A method in a training loop of one's own: regression on targets that keep changing.

python own_loop.py            # ReDo beside a LayerNorm
python own_loop.py adamo      # or any other: `isoplast methods` lists them
"""

from __future__ import annotations

import sys

import torch
from torch import nn
from torch.nn.functional import mse_loss

from isoplast.methods import training

name = sys.argv[1] if len(sys.argv) > 1 else "redo+layernorm"
torch.manual_seed(0)
inputs = torch.randn(512, 16)
model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))

run = training(name, model, lr=3e-3)  # run.model, run.optimizer: the method may have changed both
for line in run.report(steps=5 * 20 * 8):
    print(line)

for task in range(5):
    teacher = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 1)).requires_grad_(False)
    targets = 3 * teacher(inputs)
    run.new_task(inputs)  # only methods that need task boundaries look at it
    for _ in range(20):
        for rows in torch.randperm(512).split(64):
            x, y = inputs[rows], targets[rows]
            run.step(lambda x=x, y=y: mse_loss(run.model(x), y), inputs=x)
    with run.evaluated() as network, torch.no_grad():
        error = float(mse_loss(network.eval()(inputs), targets)) / float(targets.var())
    network.train()
    print(f"task {task}: {error:.1%} of the variance is left after {run.steps} steps")

state = run.state_dict()  # everything there is to save: `run.load_state_dict(state)` goes on to the same bits
