"""Collapse while a network trains: a metric with update, compute and reset, as those of torchmetrics.

python examples/metric_loop.py
"""

import torch
import torch.nn.functional as F
from torch import nn

import labkit

torch.manual_seed(0)
labels = torch.arange(600) % 6
inputs = torch.randn(6, 20)[labels] + 0.8 * torch.randn(600, 20)
features = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
classifier = nn.Linear(64, 6)
optimizer = torch.optim.Adam([*features.parameters(), *classifier.parameters()], lr=3e-3)

metric = labkit.NeuralCollapse(num_classes=6)
for epoch in range(30):
    metric.reset()
    for batch in torch.randperm(600).split(100):
        h, y = features(inputs[batch]), labels[batch]
        loss = F.cross_entropy(classifier(h), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        metric.update(h, y)  # features as they were in training; metric(h, y) gives the batch's own measures too
    if epoch % 5 == 4:
        found = metric.compute(classifier.weight, classifier.bias)
        print(
            f"epoch {epoch + 1:2}: " + "  ".join(f"{name} {found[name].item():.4f}" for name in ("nc1", "nc2", "nc3"))
        )
