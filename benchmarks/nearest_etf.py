"""nearest_etf, forward and backward, against the papers' own algorithms: trust region and dense Proposition 1.

At C=100, d=1024 one matrix of the dense formula would hold (dC)² = 1e10 numbers, 84 GB. It is timed at the largest sizes
that fit and extrapolated by the power of dC fitted to them; the trust region is timed at full size.
"""

import argparse
import statistics
import time

import numpy as np
import torch

from labkit import etf, nearest, reference


def problem(d, C, seed=0):
    """Clustered class means near a simplex ETF, as in training, with a prox and a cotangent."""
    generator = torch.Generator().manual_seed(seed)
    means = etf.simplex_etf(C, frame=etf.haar_frame(d, C, generator, dtype=torch.float64))
    means = means + 0.5 * torch.randn(d, C, generator=generator, dtype=torch.float64) / d**0.5
    means = means - means.mean(-1, keepdim=True)
    return means / means.norm(), etf.haar_frame(d, C, generator, dtype=torch.float64), torch.randn(d, C, generator=generator, dtype=torch.float64)


def timed(function, repeats=1):
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result


def ours(means, prox, cotangent):
    means = means.clone().requires_grad_()
    u = nearest.nearest_etf(means, prox)
    return torch.autograd.grad(u, means, cotangent)[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--dim", type=int, default=1024)
    args = parser.parse_args()
    d, C = args.dim, args.classes
    means, prox, cotangent = problem(d, C)
    timed(lambda: ours(means, prox, cotangent), 3)
    fast, _ = timed(lambda: ours(means.float(), prox.float(), cotangent.float()), 20)
    region, _ = timed(lambda: reference.trust_region(means, prox, 1e-3), 3)
    print(f"C={C}, d={d}, {torch.get_num_threads()} threads: ours, forward + backward, float32  {fast * 1e3:10.2f} ms")
    print(f"                trust region, from prox (median of 3)        {region * 1e3:10.1f} ms")

    sizes, seconds = [(10, 40), (10, 80), (20, 80), (20, 160), (20, 240)], []
    for C_small, d_small in sizes:
        small = problem(d_small, C_small)
        u = nearest.nearest_etf(*small[:2])
        took, gradient = timed(lambda: reference.proposition1_vjp(*small[:2], 1e-3, u, small[2]))
        error = ((gradient - ours(*small)).norm() / gradient.norm()).item()
        seconds.append(took)
        print(f"  dense Proposition 1, C={C_small:3d}, d={d_small:4d}, dC={d_small * C_small:5d}: {took * 1e3:10.1f} ms   "
              f"our gradient differs by {error:.1e}")
    products = [a * b for a, b in sizes]
    power, constant = np.polyfit(np.log(products[2:]), np.log(seconds[2:]), 1)
    power = min(power, 3.0)  # a dense solve; a steeper fit would flatter us
    dense = seconds[-1] * (d * C / products[-1]) ** power
    print(f"  extrapolated with (dC)^{power:.2f} from the largest: {dense:.3g} s at C={C}, d={d}")
    print(f"reference / ours: trust region alone {region / fast:.0f} ×, with the extrapolated dense backward "
          f"{(region + dense) / fast:.3g} ×   (goal ≥ 1000 ×)")


if __name__ == "__main__":
    main()
