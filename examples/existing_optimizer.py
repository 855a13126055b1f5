"""Keep the optimizer you have: attach the isometry step to it, even half-way.

    python examples/existing_optimizer.py

RMSprop memorises one set of random labels after the other until it no longer can. Then the step is
attached to that very optimizer, nothing is reset, and the same network learns again. The attachment
is saved and restored with the optimizer's state_dict. Needs torch and isoplast alone.
"""

import torch
from torch import nn

from isoplast import attach, param_groups

torch.manual_seed(0)
torch.set_num_threads(1)
images = torch.rand(640, 64) * 2 - 0.5

model = nn.Sequential(
    nn.Linear(64, 128),
    nn.ReLU(),
    nn.Linear(128, 128),
    nn.ReLU(),
    nn.Linear(128, 128),
    nn.ReLU(),
    nn.Linear(128, 10),
)
groups = param_groups(model)
print(groups, "\n")  # what would be kept isometric, and why
optimizer = torch.optim.RMSprop(groups, lr=1e-3)


def learn_task() -> float:
    labels = torch.randint(10, (640,))
    for _epoch in range(40):
        for rows in torch.randperm(640).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
    with torch.no_grad():
        return (model(images).argmax(1) == labels).float().mean().item()


for task in range(20):
    if task == 10:
        attachment = attach(optimizer, isometry=3e-2)  # the one line; attachment.remove() undoes it
        print(f"attached: {attachment.report()}")
    accuracy = learn_task()
    print(f"task {task:2d}: memorised {accuracy:6.1%}   {'#' * round(40 * accuracy)}")
