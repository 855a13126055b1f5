"""What people put around a step: accumulation, autocast, clipping, an average, a schedule, the compiler.

    python examples/stacks/training_loop.py            # add --compile for torch.compile(optimizer.step)

AdamO stands where AdamW stood; nothing else changes.
"""

import sys

import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from isoplast import AdamO

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
model = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 5)).to(
    device
)
optimizer = AdamO(model, lr=3e-3, isometry=1.0)
print(optimizer.report())
schedule = OneCycleLR(optimizer, max_lr=3e-3, total_steps=200)
average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))
scaler = torch.amp.GradScaler(device, enabled=device == "cuda")

if "--compile" in sys.argv:
    optimizer.step = torch.compile(optimizer.step)

for _step in range(200):
    for _part in range(4):  # four small batches make one step
        x = torch.randn(32, 32, device=device)
        with torch.autocast(device, torch.bfloat16):
            loss = nn.functional.cross_entropy(model(x), x[:, :5].argmax(1)) / 4
        scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # of the task's gradient; isometry has none
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    schedule.step()
    average.update_parameters(model)

x = torch.randn(2000, 32, device=device)
for name, network in (("trained", model), ("averaged", average)):
    accuracy = (network(x).argmax(1) == x[:, :5].argmax(1)).float().mean()
    print(f"{name}: accuracy {accuracy:.1%}")
values = torch.linalg.svdvals(model[2].weight.detach())
print(f"singular values of the middle layer: {values[-1]:.2f} to {values[0]:.2f}")
