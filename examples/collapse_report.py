"""How far a network has collapsed, layer by layer: a table, and a page to look at.

    python examples/collapse_report.py                        needs the extras `vision` and `report`

Put your own model and loader in place of these two: any torch module, any batches of inputs and labels. A pretrained
one is `timm.create_model("resnet18", pretrained=True)`, with a loader of the pictures that it was trained on.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import labkit

torch.manual_seed(0)
digits = load_digits()
images, labels = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
loader = DataLoader(TensorDataset(images, labels), batch_size=100)
model = nn.Sequential(
    *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
    *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
    *(nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10)),
)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for epoch in range(4):
    for x, y in loader:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

noise = DataLoader(torch.rand(300, 1, 8, 8), batch_size=100)  # pictures of nothing, as what is out of distribution
report = labkit.collapse(model, loader, layers=["2", "5", "8"], ood_loader=noise)
print(report.wide().to_string(float_format="{:.4g}".format, na_rep=""))
report.figure("digits, after four epochs").write_html("collapse-report.html", include_plotlyjs=True)
print("open collapse-report.html")
