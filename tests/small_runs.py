"""Trainings of a second on digits, for the tests of the loop; as a program, one of them in a process of its own.

    python tests/small_runs.py FOLDER
"""

import sys

import torch
from torch import nn

from labkit import data, trainer
from labkit.augment import PaddedCrop
from labkit.batches import Batches
from labkit.heads import HEADS
from labkit.optim import AGD

COUNT, DIM = 300, 16  # digits to train on, features
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "adam": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "agd": lambda p: AGD(p, gain=2.0),
}


def sets():
    """The first digits of each split."""
    return tuple(data.load("digits", split, count=COUNT) for split in data.SPLITS)


def build(head, optimizer="sgd", plain=True, seed=0):
    """A network of two layers, a head and an optimiser; with batch norm and dropout too where it need not be plain."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        extra = [] if plain else [nn.BatchNorm1d(32, affine=optimizer != "agd"), nn.Dropout(0.2)]
        bias = optimizer != "agd"
        backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 32, bias), *extra, nn.ReLU(), nn.Linear(32, DIM, bias))
        module = HEADS[head](DIM, 10) if isinstance(head, str) else head
    return backbone, module, OPTIMIZERS[optimizer]([*backbone.parameters(), *module.parameters()])


def a_trainer(head, folder=None, optimizer="sgd", schedule="cosine", plain=True, epochs=4, precision="no", batch_size=64,
              mix=None, **options):
    """A Trainer: batches of 64, the last of an epoch with 44; the digits are moved about unless it is to be plain."""
    train, test = sets()
    on = trainer.accelerator(precision)
    here, norm = trainer.place(on), train.normalise()
    backbone, module, made = build(head, optimizer, plain)
    batches = Batches(train, batch_size, transforms=[norm] if plain else [PaddedCrop(1), norm], order="stratified", mix=mix, **here)
    clean, held_out = (Batches(part, 128, transforms=[norm], order="sequential", **here) for part in (train, test))
    name = head if isinstance(head, str) else "other"
    return trainer.Trainer(backbone, module, made, batches, clean, held_out, name=name, epochs=epochs, schedule=schedule,
                           folder=folder, on=on, **options)


KILLED = dict(head="implicit", plain=False, epochs=12)

if __name__ == "__main__":
    a_trainer(folder=sys.argv[1], **KILLED).run()
