"""timm: its factory, layer decay and schedule, with the isometry step attached.

python examples/stacks/timm_layer_decay.py        # pip install timm torchvision
"""

import torch
from timm.models.vision_transformer import VisionTransformer
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import nn

from isoplast import attach

torch.manual_seed(0)
model = VisionTransformer(img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=2, num_classes=5)
optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.0, layer_decay=0.75)
schedule = CosineLRScheduler(optimizer, t_initial=100)
attachment = attach(optimizer, isometry=0.1, model=model)  # the model says what timm's groups do not
print(attachment.report())

images, labels = torch.randn(64, 3, 32, 32), torch.arange(64) % 5
for step in range(100):
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    schedule.step(step + 1)
print(f"loss {loss:.3f}")
