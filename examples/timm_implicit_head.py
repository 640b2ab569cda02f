"""A timm ResNet with the implicit ETF head, in a plain training loop.

python examples/timm_implicit_head.py        needs the extra `vision`
"""

import labkit.vision  # first of all: torchvision, which timm imports, may need a hand (see there)
import timm
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from labkit.heads import ImplicitETFHead

torch.manual_seed(0)
digits = load_digits()
images = F.interpolate(torch.tensor(digits.images[:400], dtype=torch.float32)[:, None] / 16, size=32)
loader = DataLoader(TensorDataset(images, torch.tensor(digits.target[:400])), batch_size=50, shuffle=True)

backbone = timm.create_model("resnet10t", num_classes=0, in_chans=1)
head = ImplicitETFHead(dim=backbone.num_features, num_classes=10)
optimizer = torch.optim.AdamW([*backbone.parameters(), *head.parameters()], lr=2e-3)
for epoch in range(10):  # after three the running means of batch norm are still far off, and eval() guesses
    for x, y in loader:
        loss = F.cross_entropy(head(backbone(x), y), y)  # the head takes the labels in too, while it trains
        optimizer.zero_grad()
        loss.backward()  # through the nearest ETF
        optimizer.step()
    print(f"epoch {epoch + 1}: loss {loss.item():.3f}")

backbone.eval(), head.eval()
with torch.no_grad():
    right = sum((head(backbone(x)).argmax(1) == y).sum().item() for x, y in loader)
print(f"accuracy on the training images: {right / len(images):.1%}")
