"""DDP, FSDP2 and ZeRO: AdamO as it stands, and a checkpoint that any number of processes resumes.

    torchrun --nproc_per_node 2 examples/stacks/distributed.py fsdp     # or ddp, zero

Without a GPU it runs on gloo.
"""

import os
import sys
import tempfile

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from isoplast import AdamO
from isoplast.integrations import zero_redundancy_optimizer

kind = sys.argv[1] if len(sys.argv) > 1 else "fsdp"
dist.init_process_group("gloo")
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(32, 100), nn.ReLU(), nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 5))

if kind == "fsdp":
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer)
    fully_shard(model)
    optimizer = AdamO(model, lr=3e-3, isometry=0.1)
else:
    model = DistributedDataParallel(model)
    make = AdamO if kind == "ddp" else zero_redundancy_optimizer
    optimizer = make(model, lr=3e-3, isometry=0.1)

generator = torch.Generator().manual_seed(dist.get_rank())  # every process has its own data
for step in range(200):
    x = torch.randn(64, 32, generator=generator)
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x), x[:, :5].argmax(1))
    loss.backward()
    optimizer.step()
    if step % 50 == 49 and dist.get_rank() == 0:
        print(f"{kind}, step {step + 1}: loss {loss:.3f}")

if kind == "fsdp":
    folder = [tempfile.mkdtemp()]
    dist.broadcast_object_list(folder)
    weights, moments = get_state_dict(model, optimizer)  # moves no weight
    dcp.save({"model": weights, "optimizer": moments}, checkpoint_id=folder[0])
    dcp.load({"model": weights, "optimizer": moments}, checkpoint_id=folder[0])
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments)
    if dist.get_rank() == 0:
        print("saved and loaded")
dist.barrier()
sys.stdout.flush()
os._exit(0)  # threads of gloo outlive their group, and one that meets a finished interpreter aborts it
