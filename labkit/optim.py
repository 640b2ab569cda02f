"""AGD, automatic gradient descent (Bernstein et al. 2023): a layer-wise step whose size needs no learning rate.

Written from the formulas of that paper; the public implementation's licence (CC BY-NC-SA) does not allow reuse.
"""

import math
from collections.abc import Callable, Iterable

import torch

from labkit import checks


def layer_scale(shape: tuple[int, ...]):
    """s = √(out/in), divided by √(k_h·k_w) for a convolution; shape is (out, in) or (out, in, k_h, k_w).

    >>> layer_scale((4, 1)), layer_scale((4, 1, 2, 2))
    (2.0, 1.0)
    """
    out, fan_in, *kernel = shape
    return math.sqrt(out / fan_in) / math.sqrt(math.prod(kernel))


@torch.no_grad()
def agd_init_(weight: torch.Tensor, generator: torch.Generator | None = None):
    """Fill weight, (out, in) or (out, in, k_h, k_w), with s times an orthogonal matrix for each kernel position;
    returns it.

    Drawn on the CPU and in float32, so that a seed gives the same start on every device.

    >>> weight = agd_init_(torch.empty(4, 1))
    >>> round(weight.norm().item(), 4)  # one column of length 1, times √(4/1)
    2.0
    """
    _check_layer(weight.shape, 0)
    (out, fan_in, *kernel), scale = weight.shape, layer_scale(weight.shape)
    for position in range(math.prod(kernel)):
        start = torch.empty(out, fan_in, dtype=torch.float32, device="cpu")
        weight.view(out, fan_in, -1)[:, :, position] = torch.nn.init.orthogonal_(start, scale, generator)
    return weight


class AGD(torch.optim.Optimizer):
    """With L layers, G = (1/L) Σ_l s_l Σ_positions ‖∇_l‖_F and η = log((1 + √(1 + 4G))/2):

        W_l ← W_l − gain · (η/L) · s_l · ∇_l/‖∇_l‖_F        (norms for each kernel position of a convolution)

    params: weights of shape (…, out, in), or (out, in, k_h, k_w) for convolutions; start them with `agd_init_`. AGD has
        no rule for biases and other vectors: use layers without them (batch norm non-affine). G and η are those of all
        groups of parameters together.
    gain: factor on the step, for each group; 10 in the guiding paper, 1 in AGD's own.
    batch_dims: how many leading dimensions of every parameter are independent runs (seeds), each with its own G and η.
    Raises ValueError for gain ≤ 0 or a parameter that is neither shape.

    >>> layer = torch.nn.Linear(3, 2, bias=False)
    >>> optimizer = AGD([agd_init_(layer.weight)], gain=1.0)
    >>> layer(torch.ones(1, 3)).square().sum().backward()
    >>> optimizer.step()
    """

    def __init__(self, params: Iterable, gain: float = 10.0, batch_dims: int = 0):
        self.batch_dims = batch_dims
        super().__init__(params, dict(gain=gain))

    def __getstate__(self):  # of a copy: torch keeps no attribute but its own
        return super().__getstate__() | {"batch_dims": self.batch_dims}

    def add_param_group(self, param_group: dict):
        """One more group of layers; η is that of all groups together, and so changes."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        checks.positive("gain", group["gain"])
        for p in group["params"]:
            _check_layer(p.shape, self.batch_dims)

    @torch.no_grad()
    def step(self, closure: Callable | None = None):
        """Take one step; returns the closure's loss where one is given. Parameters without gradient stand still."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        found = [(p, group["gain"]) for group in self.param_groups for p in group["params"] if p.grad is not None]
        layers = [p for p, _ in found]
        if not layers:
            return loss
        b = self.batch_dims
        scales = [layer_scale(p.shape[b:]) for p in layers]
        # Of kernels the norm over `in` comes first: over both dimensions at once takes four to eight times as long.
        norm = torch.linalg.vector_norm
        rows = [p.grad if p.ndim == b + 2 else norm(p.grad, dim=b + 1, keepdim=True) for p in layers]
        norms = [norm(r, dim=(b, b + 1), keepdim=True, dtype=torch.promote_types(r.dtype, torch.float32)) for r in rows]
        # (…, 1, 1, positions) -> (…): the sum over kernel positions, one number for each run
        total = sum(s * n.flatten(b).sum(-1) for s, n in zip(scales, norms)) / len(layers)
        eta = torch.log1p(2 * total / (1 + torch.sqrt(1 + 4 * total)))  # as written above a small G would be lost
        for (p, gain), s, n in zip(found, scales, norms):
            step = eta.reshape(eta.shape + (1,) * (p.ndim - b)) * (-gain * s / len(layers))
            # A gradient whose squares may underflow counts as zero: a norm of at most 1e-15, or 1e-150 in float64.
            shortest = 1e4 * math.sqrt(torch.finfo(n.dtype).tiny)
            p.addcmul_(p.grad, step / n.masked_fill(n <= shortest, math.inf))
        return loss


def _check_layer(shape, batch_dims):
    if len(shape) - batch_dims not in (2, 4):
        raise ValueError(
            f"AGD takes weights of shape (out, in) or (out, in, k_h, k_w) after {batch_dims} batch "
            f"dimensions, got {tuple(shape)}"
        )
