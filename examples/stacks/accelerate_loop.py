"""AdamO, and ReDo behind it, in an Accelerate loop with accumulation and saved states.

python examples/stacks/accelerate_loop.py         # pip install isoplast[transformers], or accelerate launch
"""

import tempfile

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from isoplast import AdamO
from isoplast.integrations import Follow

torch.manual_seed(0)
inputs = torch.randn(1024, 32)
accelerator = Accelerator(gradient_accumulation_steps=2)
model = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 5))
model, optimizer, data = accelerator.prepare(
    model,
    AdamO(model, lr=3e-3, isometry=0.1),
    DataLoader(TensorDataset(inputs, inputs[:, :5].argmax(1)), batch_size=32, shuffle=True),
)
follow = Follow("redo", every=50)
accelerator.register_for_checkpointing(follow)

with follow.start(model, optimizer):
    for epoch in range(10):
        for x, y in data:
            with accelerator.accumulate(model):
                loss = nn.functional.cross_entropy(model(x), y)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
        if epoch % 5 == 4:
            print(f"epoch {epoch}: loss {loss:.3f} after {follow.steps} steps")
    folder = tempfile.mkdtemp()
    accelerator.save_state(folder)
    accelerator.load_state(folder)
print("saved and loaded")
