"""APA and AGLU against numbers of the code released with the paper (see outside/README.md), to what was measured there."""

from pathlib import Path

import numpy as np
import pytest
import torch

from labkit.activations import AGLU, APA, aglu, apa

OUTSIDE = Path(__file__).parent / "outside"


def read(name):
    return {key: torch.from_numpy(a) for key, a in np.load(OUTSIDE / name).items() if a.dtype.kind in "fiu"}


GRID, PATH = read("activation-grid.npz"), read("activation-path.npz")
# Their AGLU has Eq. 6 for its gradient in λ, their APA the true one, by autograd.
FUNCTIONS = {"unirect": lambda *a: aglu(*a, lambda_gradient="paper"), "unified": apa}


def compared(name, part, suffix=""):
    """(quantity, ours, theirs) of the value and its three derivatives at each point of the grid, or of its tail."""
    dtype = torch.float32 if suffix else torch.float64
    z, kappa, lam = (GRID[part + key].to(dtype).requires_grad_() for key in ("z", "kappa", "lam"))
    value = FUNCTIONS[name](z[None], kappa, lam)[0]  # each number is a channel
    found = (value, *torch.autograd.grad(value.sum(), (z, kappa, lam)))
    for quantity, ours in zip(("value", "dz", "dkappa", "dlam"), found):
        yield quantity, ours.detach(), GRID[f"{part}{name}_{quantity}{suffix}"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_grid(name):
    for quantity, ours, theirs in compared(name, ""):
        # What autograd makes of their formula for APA cancels in λ.
        rtol, atol = (0, 1e-11) if (name, quantity) == ("unified", "dlam") else (1e-11, 1e-300)
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)
    for quantity, ours, theirs in compared(name, "", "_f32"):
        if quantity != "dlam":
            assert ((ours - theirs).abs() <= torch.maximum(torch.tensor(2e-5), 5e-5 * theirs.abs())).all()
        elif name == "unirect":
            torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-38)
        else:
            torch.testing.assert_close(ours, theirs, rtol=0, atol=6e-5)
    for _, ours, theirs in compared(name, "tail_"):  # where their softplus is cut off
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=0)


def test_the_modules():
    z, param = GRID["module_x"].requires_grad_(), GRID["module_param"]
    for name, module, floor in (("unirect", AGLU, "released"), ("unified", APA, "one-sided")):
        for i, p in enumerate(param):
            act = module(lambda_gradient="paper" if name == "unirect" else "exact", floor=floor).double()
            act.kappa.data.fill_(GRID["module_kappa"][i])
            # Their APA clamps λ at 1e-4, below which it has no gradient.
            act.lam.data.fill_(p if floor == "released" else p.clamp(min=1e-4))
            out = act(z)
            found = torch.autograd.grad(out, (z, act.kappa, act.lam), GRID["module_cotangent"])
            if name == "unified" and p < 1e-4:
                found = *found[:2], torch.zeros_like(p)
            theirs = [GRID[f"module_{name}_{key}"][i] for key in ("value", "dx", "dkappa", "dparam")]
            torch.testing.assert_close([out, *found], theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("start", range(len(PATH["p0"])))
def test_the_path_of_the_released_module_under_gradient_descent(start):
    """λ = relu(p) + 1e-8 with Eq. 6; one path starts below 0 and stays there, one crosses 0 and sticks."""
    act = AGLU(lambda_gradient="paper", floor="released").double()
    act.kappa.data.fill_(PATH["kappa0"])
    act.lam.data.fill_(PATH["p0"][start])
    optimizer = torch.optim.SGD(act.parameters(), lr=PATH["lr"].item(), momentum=PATH["momentum"].item())
    walked = []
    for _ in range(PATH["loss"].shape[1]):
        loss = (act(PATH["x"]) - PATH["y"]).square().mean()
        walked.append([loss.item(), act.kappa.item(), act.lam.item()])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    theirs = torch.stack([PATH[key][start] for key in ("loss", "kappa_path", "p_path")], 1)
    torch.testing.assert_close(torch.tensor(walked, dtype=torch.float64), theirs, rtol=1e-11, atol=1e-11)
