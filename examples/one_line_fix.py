"""One line keeps a network able to learn: run it before and after.

    python examples/one_line_fix.py            # torch.optim.Adam: forgets how to learn
    python examples/one_line_fix.py --fixed    # isoplast.AdamO: keeps learning

A network memorises one set of random labels after the other. Every task is equally hard, so the
accuracy per task shows nothing but the ability to learn. Needs torch and isoplast alone.
"""

import sys

import torch
from torch import nn

from isoplast import AdamO

torch.manual_seed(0)
torch.set_num_threads(1)
images = torch.rand(640, 64) * 2 - 0.5  # any inputs will do

layers: list[nn.Module] = []
for width_in, width_out in ((64, 128), (128, 128), (128, 128)):
    layers += [nn.Linear(width_in, width_out), nn.ReLU()]
model = nn.Sequential(*layers, nn.Linear(128, 10))

if "--fixed" in sys.argv:
    optimizer: torch.optim.Optimizer = AdamO(model.parameters(), lr=3e-3)  # after
else:
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)  # before

for task in range(12):
    labels = torch.randint(10, (640,))
    for _epoch in range(40):
        for rows in torch.randperm(640).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
    with torch.no_grad():
        accuracy = (model(images).argmax(1) == labels).float().mean().item()
    print(f"task {task:2d}: memorised {accuracy:6.1%}   {'#' * round(40 * accuracy)}")
