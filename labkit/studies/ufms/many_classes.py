"""What becomes of collapse when classes outnumber dimensions, as tokens do: UFMs with C from d/2 to 8d.

A simplex ETF has room for d+1 classes. Beyond, the class vectors of the learnt head spread over the sphere as they can:
up to C = 2d the best minimal margin is known (`etf.minimal_margin_bound`), and for C = 2d an orthoplex has it.
"""

import argparse
from collections.abc import Iterable, Sequence

import pandas as pd
import torch
import torch.nn.functional as F

from labkit import checks, metrics
from labkit.history import History, provenance
from labkit.report.measures import uniformity
from labkit.ufm import UFM, Trainer, log_points

DIM = 16
SIZES = (8, 12, 16, 17, 20, 24, 32, 40, 48, 64, 96, 128)  # C; 17 is the last simplex, 32 the orthoplex
SETTINGS = {"head": "standard", "temperature": 5.0, "gain": 2.0, "each": 10, "iterations": 3000}


def study(
    sizes: Iterable[int] = SIZES, dim: int = DIM, seeds: Iterable[int] = range(5), iterations: int | None = None
) -> History:
    """Train a UFM of each size C in d dimensions; one History, "num_classes" among the columns that tell runs apart.

    Measures beside those of `ufm.train_ufm`, all of the weights: minimal_margin, and log_energy, the hyperspherical
    uniformity that rhubarbwu/neural-collapse has for GNC2; and self_duality, the mean cosine of a class's vector and
    its centred mean. NC2 and NC3 are kept, to show what they no longer say.

    >>> study([3], dim=2, seeds=[0], iterations=1000).final()["minimal_margin"].round(2).item()
    1.5
    """
    s = SETTINGS | ({} if iterations is None else {"iterations": checks.integer("iterations", iterations, 1)})
    parts, seeds = [], list(seeds)
    for num_classes in sizes:
        spec = UFM(num_classes, s["each"] * num_classes, dim)
        trainer = Trainer(spec, s["head"], seeds, s["temperature"], s["gain"])
        for step in log_points(s["iterations"], per_decade=5):
            while trainer.iteration < step:
                trainer.step()
            parts.append(measure(trainer).assign(num_classes=num_classes, dim=dim, iteration=step))
    table = pd.concat(parts).sort_values(["num_classes", "seed", "iteration"], kind="stable")
    return History(table, s | {"dim": dim, "seeds": seeds, **provenance("cpu")}, pd.DataFrame(columns=KEYS))


KEYS = ["num_classes", "head", "seed", "sample", "margin"]


@torch.no_grad()
def measure(trainer: Trainer) -> pd.DataFrame:
    """A row for each seed of a trainer, as it is."""
    values, _ = trainer.measure()
    head, _ = trainer.present()
    weight = head.weight.double()
    h = head.normalize(trainer.features).double()
    means, centre = metrics.class_means(h, trainer.targets, trainer.spec.num_classes)
    values |= {
        "minimal_margin": metrics.minimal_margin(weight),
        "log_energy": uniformity(weight)[0],
        "self_duality": F.cosine_similarity(weight, means - centre.unsqueeze(-2), dim=-1).mean(-1),
    }
    return pd.DataFrame({"head": trainer.head_name, "seed": trainer.seeds, **values})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m labkit.studies.ufms.many_classes", description="UFMs with more classes than dimensions."
    )
    parser.add_argument("--out", default="data/results/ufm-many-classes.parquet", help="(%(default)s)")
    out = parser.parse_args(arguments).out  # before minutes of training
    print(study().save(out))


if __name__ == "__main__":
    main()
