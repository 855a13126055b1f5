"""LoRA: which factor of an adapter is kept isometric, and which never.

python examples/stacks/lora.py                    # pip install peft
"""

import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from isoplast import AdamO
from isoplast.integrations import adapter_groups

torch.manual_seed(0)
small = {"vocab_size": 64, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2}
model = GPT2LMHeadModel(GPT2Config(**small, bos_token_id=0, eos_token_id=0))
model = get_peft_model(model, LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True))
try:
    AdamO(model)
except ValueError as error:
    print(f"refused: {error}\n")

optimizer = AdamO(adapter_groups(model), lr=3e-3, isometry=1.0)
print(optimizer.report())
rows = (torch.arange(32) * torch.randint(1, 5, (64, 1))) % 64
for step in range(100):
    loss = model(input_ids=rows, labels=rows).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if step % 50 == 49:
        print(f"step {step + 1}: loss {loss:.3f}")
for name, p in model.named_parameters():
    if "h.0" in name and p.requires_grad:
        values = torch.linalg.svdvals(p.detach())
        print(f"{'A' if 'lora_A' in name else 'B'}: singular values {values[-1]:.2f} to {values[0]:.2f}")
