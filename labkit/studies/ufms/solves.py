"""How long the nearest ETF takes to find while a model trains: trust region and closed form (Figures 5a and 16a)."""

import time
from collections.abc import Sequence

import pandas as pd
import torch

from labkit import nearest, reference, ufm

STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
CLOSED, ITERATED = "closed form", "trust region"


def along_training(
    spec: ufm.UFM = ufm.UFM_10, steps: Sequence[int] = STEPS, repeats: int = 5, seed: int = 0
) -> pd.DataFrame:
    """The solve of these steps of a UFM with the implicit head, by the closed form and by the paper's trust region.

    The trust region starts from the ETF of the step before, as in the paper's code. Columns: step (the number taken
    before), way, milliseconds (on one thread, the least of some repeats: the first call of all loads libraries), and
    apart, ‖UP − U*P‖_F between the ETF of a way and the one that the head moved to. Needs the extra `notebooks`
    (pymanopt).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices so small take up to forty times as long where two threads wait for each other
    try:
        return _along_training(spec, steps, repeats, seed)
    finally:
        torch.set_num_threads(threads)


def _along_training(spec, steps, repeats, seed):
    trainer, rows = ufm.Trainer(spec, "implicit", [seed]), []
    head = trainer.head
    ways = {CLOSED: nearest.nearest_etf, ITERATED: reference.trust_region}
    for step in steps:
        while trainer.iteration < step:
            trainer.step()
        before = head.frame[0].clone() if step else None
        trainer.step()
        means = head.class_means.means[0]  # centred already
        means = means / means.norm()
        prox = nearest.start_frame(means) if before is None else before
        for way, solve in ways.items():
            seconds = []
            for _ in range(repeats):
                begin = time.perf_counter()
                frame = solve(means, prox, head.delta)
                seconds.append(time.perf_counter() - begin)
            apart = frame - head.frame[0]
            apart = (apart - apart.mean(-1, keepdim=True)).norm().item()
            rows.append((step, way, 1000 * min(seconds), apart))
    return pd.DataFrame(rows, columns=["step", "way", "milliseconds", "apart"])
