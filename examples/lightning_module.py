"""Collapse logged in each epoch of a LightningModule.

python examples/lightning_module.py          needs the extra `lightning`
"""

import labkit.vision  # first of all: torchvision, which Lightning imports, may need a hand (see there)
import lightning
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import labkit

torch.manual_seed(0)


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.classifier = nn.Linear(64, 6)
        self.collapse = labkit.NeuralCollapse(num_classes=6)

    def training_step(self, batch, index):
        x, y = batch
        h = self.features(x)
        self.collapse.update(h, y)
        return F.cross_entropy(self.classifier(h), y)

    def on_train_epoch_end(self):
        found = self.collapse.compute(self.classifier.weight, self.classifier.bias)  # of all processes
        self.log_dict({name: value.float() for name, value in found.items()}, rank_zero_only=True)
        self.collapse.reset()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


labels = torch.arange(600) % 6
inputs = torch.randn(6, 20)[labels] + 0.8 * torch.randn(600, 20)
loader = DataLoader(TensorDataset(inputs, labels), batch_size=100, shuffle=True)
quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
trainer = lightning.Trainer(max_epochs=10, accelerator="cpu", **quiet)
trainer.fit(Classifier(), loader)
print("  ".join(f"{name} {trainer.callback_metrics[name].item():.4f}" for name in ("nc1", "nc2", "nc3")))
