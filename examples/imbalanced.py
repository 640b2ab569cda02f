"""A problem with one sample of the rarest class for a hundred of the commonest: three heads, and where they collapse.

python examples/imbalanced.py
"""

import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

import labkit
from labkit import heads

torch.manual_seed(0)
C, DIM = 6, 24
counts = [500, 200, 80, 32, 12, 5]
centres = torch.randn(C, 20)


def draw(counts):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return centres[labels] + 1.2 * torch.randn(len(labels), 20), labels


inputs, labels = draw(counts)
test_inputs, test_labels = draw([200] * C)

rows = {}
for name in ("standard", "fixed", "implicit"):
    torch.manual_seed(1)
    backbone = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, DIM))
    head = heads.make(name, DIM, C)
    optimizer = torch.optim.Adam([*backbone.parameters(), *head.parameters()], lr=3e-3)
    for _ in range(300):
        loss = F.cross_entropy(head(backbone(inputs), labels), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    backbone.eval(), head.eval()
    with torch.no_grad():
        right = (head(backbone(test_inputs)).argmax(1) == test_labels).float()
    report = labkit.collapse(nn.Sequential(backbone, head), [(inputs, labels)], classifier=head, centre="classes")
    rows[name] = {
        "test accuracy": right.mean().item(),
        "of the two rarest classes": right[test_labels >= C - 2].mean().item(),
        **{measure: report[measure] for measure in ("nc1", "nc2_means", "equinorm_means", "smallest_margin")},
    }
# one seed: the spread over seeds is for a sweep, as in examples/sweep.py
print(pd.DataFrame(rows).to_string(float_format="{:.4f}".format))
