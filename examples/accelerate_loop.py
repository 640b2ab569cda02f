"""A network trained with accelerate, on one device or several, and its collapse measured over all processes.

python examples/accelerate_loop.py           needs the extra `vision`
accelerate launch --num_processes 2 --cpu examples/accelerate_loop.py
"""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import labkit

torch.manual_seed(0)
accelerator = Accelerator()
labels = torch.arange(1200) % 6
inputs = torch.randn(6, 20)[labels] + 0.8 * torch.randn(1200, 20)
loader = DataLoader(TensorDataset(inputs, labels), batch_size=100, shuffle=True)
model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 6))
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

for epoch in range(15):
    for x, y in loader:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()

# every process reads its share, and all get the measures of all samples
report = labkit.collapse(model, loader)
accelerator.print(
    f"{report.samples} samples: NC1 {report['nc1']:.4f}, NC2 {report['nc2']:.4f}, NC3 {report['nc3']:.4f}"
)
accelerator.end_training()
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
