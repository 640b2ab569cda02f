"""AGLU in networks of torchvision and timm: each place where an activation is used gets κ and λ of its own.

python examples/aglu_anywhere.py             needs the extra `vision`
"""

import labkit.vision  # first of all: torchvision may need a hand (see there)
import timm
import torch
import torchvision
from torch import nn

from labkit import activations

torch.manual_seed(0)


def count(model):
    return sum(p.numel() for p in model.parameters())


# torchvision uses one ReLU for two places of a block: replaced by module, the two would share κ and λ
plain = torchvision.models.resnet18(num_classes=10)
model = activations.replace(plain, nn.ReLU, "aglu")
print(f"torchvision resnet18: {count(model) - count(plain)} numbers more, κ and λ of 17 activations")

# a transformer of timm, in which the last axis is the channels: one κ and λ for each of them
vit = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=10)
before = count(vit)
vit = activations.replace(vit, nn.GELU, "aglu", example=torch.randn(1, 3, 32, 32), channel_dim=-1)
print(f"timm vit_tiny: {count(vit) - before} numbers more")

# weight decay would draw κ and λ to 0, where an activation is another one
optimizer = torch.optim.SGD(activations.parameter_groups(model, weight_decay=5e-4), lr=0.1, momentum=0.9)
images, labels = torch.randn(8, 3, 32, 32), torch.arange(8)
loss = nn.functional.cross_entropy(model(images), labels)
loss.backward()
optimizer.step()
first = model.get_submodule("layer1.0.relu")
print(f"after a step, in the first block: κ = {first.kappa.item():.4f}, λ = {first.lam.item():.4f}")
