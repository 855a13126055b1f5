"""AdamO in a LightningModule, with ReDo and a Monitor behind its steps and in its checkpoints.

python examples/stacks/lightning_module.py        # pip install isoplast[lightning]
"""

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from isoplast import AdamO
from isoplast.integrations.lightning import PlasticityCallback


class Classifier(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 5)
        )

    def training_step(self, batch, _index):
        inputs, targets = batch
        loss = nn.functional.cross_entropy(self.model(inputs), targets)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return AdamO(self.model, lr=3e-3, isometry=0.1)


torch.manual_seed(0)
inputs = torch.randn(1024, 32)
data = DataLoader(TensorDataset(inputs, inputs[:, :5].argmax(1)), batch_size=64, shuffle=True)
callback = PlasticityCallback(
    "redo",
    network="model",
    monitor={"measures": ["weights"], "every": 10, "budget": 0.5},
    task=lambda trainer: trainer.current_epoch // 5,  # another task every five epochs
    every=50,
)
trainer = Trainer(
    max_epochs=10,
    accelerator="cpu",
    logger=False,
    callbacks=[callback],
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(Classifier(), data)
print(f"loss {trainer.callback_metrics['loss']:.3f} after {callback.follow.steps} steps")
print(f"the monitor measured {len(callback.monitor.records)} times")
