"""AdamO in the Trainer of transformers, with a Monitor. Random weights, nothing is downloaded.

python examples/stacks/transformers_trainer.py    # pip install isoplast[transformers]
"""

import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from isoplast import AdamO, param_groups
from isoplast.integrations.transformers import PlasticityCallback

torch.manual_seed(0)
small = {"vocab_size": 64, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2}
model = GPT2LMHeadModel(GPT2Config(**small, bos_token_id=0, eos_token_id=0))
rows = (torch.arange(32) * torch.randint(1, 5, (256, 1)) + torch.randint(64, (256, 1))) % 64
data = [{"input_ids": row, "labels": row} for row in rows]

groups = param_groups(model)  # the Trainer's own groups know shapes alone: embeddings would be matrices
callback = PlasticityCallback(monitor={"measures": ["weights"], "every": 5, "budget": 0.5})
trainer = Trainer(
    model,
    TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        max_steps=100,
        per_device_train_batch_size=16,
        learning_rate=3e-3,
        logging_steps=50,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    ),
    train_dataset=data,
    optimizer_cls_and_kwargs=(AdamO, {"params": groups, "lr": 3e-3, "isometry": 0.1}),
    callbacks=[callback],
)
print(trainer.create_optimizer().report())
trainer.train()
print(f"the monitor measured {len(callback.monitor.records)} times in {callback.follow.steps} steps")
