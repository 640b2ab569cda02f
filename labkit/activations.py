"""APA and AGLU, the adaptive parametric activations (Alexandridis et al. 2024), as functions and as modules.

    APA:  η(z; κ, λ) = (λ e^{−κz} + 1)^{−1/λ}        AGLU:  z · η(z; κ, λ)

κ scales and λ > 0 skews: λ = 1 gives sigmoid(κz), and AGLU with κ = λ = 1 is SiLU; λ → 0 gives the Gumbel
exp(−e^{−κz}). With E = e^{−κz}, u = λE, s = ln(1 + u), q = E/(1 + u) = 1/(λ + e^{κz}) and v = λq the derivatives are

    ∂η/∂z = κηq        ∂η/∂κ = zηq        ∂η/∂λ = η (s − v)/λ²

The difference s − v cancels where s is small, that is for small λ and for large κz alike. Kept for the backward pass
are z and, on a CPU, s unless z is of a half type: at most twice the memory of z. The arithmetic is in `_fast`, but for
torch.jit.trace and torch.export, which take the plain formula: its values are the same, but what autograd makes of it
loses digits of ∂η/∂λ for small λ. `replace` puts other activations into any network.
"""

import math

import torch
import torch.fx

from labkit import checks
from labkit._fast import activation as _fast
from labkit._fast.activation import FLOOR
from labkit._replace import no_weight_decay, parameter_groups, replace  # noqa: F401

Parameter = torch.Tensor | float  # κ or λ


def apa(
    z: torch.Tensor, kappa: Parameter, lam: Parameter, *, lambda_gradient: str = "exact", channel_dim: int = 1
) -> torch.Tensor:
    """η(z; κ, λ) = (λ e^{−κz} + 1)^{−1/λ} for each number in z; shape and dtype of z.

    z: floating point, any shape.
    kappa, lam: number, tensor of shape (), or of shape (C,), one for each channel, where z has shape (N, C, …); λ > 0.
    lambda_gradient: "exact", or "paper" for −(1/λ)·η/(λ + e^{κz}), study only: the supplement differentiates the base
        and forgets that the exponent depends on λ too. Its sign is opposite to that of the derivative.
    channel_dim: 1, or -1 where z has shape (N, …, C).

    Half types are computed in float32. Differentiable any number of times (under torch.compile once, as all is there).
    Raises TypeError for z that is not floating point, ValueError for λ that is not positive and finite and for a number
    of channels that does not fit. To see λ the check waits for a GPU that holds it; the modules have none, and there is
    none under torch.compile and the transforms of torch.func.

    >>> apa(torch.tensor([-2.0, 0.0, 2.0]), kappa=1.0, lam=1.0)  # the sigmoid
    tensor([0.1192, 0.5000, 0.8808])
    """
    return _fast.checked(z, kappa, lam, False, lambda_gradient, channel_dim=channel_dim)


def aglu(
    z: torch.Tensor, kappa: Parameter, lam: Parameter, *, lambda_gradient: str = "exact", channel_dim: int = 1
) -> torch.Tensor:
    """z · η(z; κ, λ), with the arguments, result and errors of `apa`.

    "paper" is here −(z/λ)·η/(λ + e^{κz}) (Eq. 6, supplement of Alexandridis et al. 2024).

    >>> aglu(torch.tensor([-2.0, 0.0, 2.0]), kappa=1.0, lam=1.0)  # SiLU
    tensor([-0.2384,  0.0000,  1.7616])
    """
    return _fast.checked(z, kappa, lam, True, lambda_gradient, channel_dim=channel_dim)


class _Adaptive(torch.nn.Module):
    """What APA and AGLU share: κ, λ, and how λ is kept positive."""

    channel_dim = 1  # of modules that were saved before there was a choice

    def __init__(
        self,
        kappa_init: tuple[float, float] | None = None,
        lambda_init: tuple[float, float] = (0.0, 1.0),
        num_channels: int | None = None,
        lambda_gradient: str = "exact",
        *,
        floor: str = "one-sided",
        generator: torch.Generator | None = None,
        inplace: bool = False,
        channel_dim: int = 1,
    ):
        super().__init__()
        checks.one_of("channel_dim", channel_dim, (1, -1))
        checks.one_of("lambda_gradient", lambda_gradient, ("exact", "paper"))
        checks.one_of("floor", floor, ("one-sided", "released"))
        num_channels = None if num_channels is None else checks.integer("num_channels", num_channels, 1)
        self.kappa_init = _range("kappa_init", self.kappa_range if kappa_init is None else kappa_init)
        self.lambda_init = _range("lambda_init", lambda_init)
        if self.lambda_init[0] < 0 or self.lambda_init[1] == 0:
            raise ValueError(f"lambda_init must be a range (low, high) with low ≥ 0 and high > 0, got {lambda_init!r}")
        self.num_channels, self.channel_dim = num_channels, channel_dim
        self.lambda_gradient, self.floor = lambda_gradient, floor
        shape = () if num_channels is None else (num_channels,)
        self.kappa = torch.nn.Parameter(torch.empty(shape))
        self.lam = torch.nn.Parameter(torch.empty(shape))
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw κ, then λ, afresh; on the CPU, so that a seed gives the same start on every device."""
        for parameter, (low, high) in ((self.kappa, self.kappa_init), (self.lam, self.lambda_init)):
            parameter.copy_(torch.empty(parameter.shape, device="cpu").uniform_(low, high, generator=generator))

    @property
    def used_lam(self) -> torch.Tensor:
        """λ as it is used, at its floor or above: `lam` is what is trained. A copy, apart from the graph."""
        return _positive(self.lam.detach(), self.floor).clone()

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return _learnt(z, self.kappa, self.lam, self.gated, self.floor, self.lambda_gradient, self.channel_dim)

    def extra_repr(self):
        names = "kappa_init", "lambda_init", "num_channels", "lambda_gradient", "floor", "channel_dim"
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)


class APA(_Adaptive):
    """η(z; κ, λ) with κ and λ learnt: parameters `kappa` and `lam` of shape (), or (num_channels,), a pair a channel.

    kappa_init, lambda_init: ranges (low, high) of the uniform distributions they are drawn from (defaults: (0, 1) and
        (0, 1); supplement, Table 2), by the global generator or by `generator`; low = high sets a value.
    num_channels: C of z (N, C, …), or None for one pair for all, which does better in the supplement's Table 7.
    channel_dim: 1, or -1 for z (N, …, C).
    lambda_gradient: "exact" or "paper", as for `apa`.
    floor: how λ stays positive. "one-sided": λ is max(lam, FLOOR). Where lam is below FLOOR its gradient passes if a
        descent step raises lam, and is 0 if it lowers it further: lam can come back, and does not drift away.
        "released": λ is relu(lam) + FLOOR, as in the code released with the paper; lam ≤ 0 has no gradient and stays.
    inplace: ignored; timm's ResNets build their activations by act_layer(inplace=True).

    Raises ValueError for a range that is reversed or not finite, one of λ with low < 0 or high ≤ 0, for num_channels
    < 1, and for other words than these.

    >>> APA(lambda_init=(1, 1), num_channels=3)(torch.zeros(2, 3, 5)).shape
    torch.Size([2, 3, 5])
    """

    gated, kappa_range = False, (0.0, 1.0)


class AGLU(_Adaptive):
    """z · η(z; κ, λ) with κ and λ learnt; as `APA`, but κ is drawn from (1, 1.3) (supplement, Tables 2 and 5).

    >>> silu = AGLU(kappa_init=(1, 1), lambda_init=(1, 1))
    >>> silu(torch.tensor([-2.0, 2.0])).tolist() == aglu(torch.tensor([-2.0, 2.0]), 1.0, 1.0).tolist()
    True
    """

    gated, kappa_range = True, (1.0, 1.3)


@torch.fx.wrap  # a step of its own in a graph, into which no value of a parameter is written
def _learnt(z, kappa, lam, gated, floor, lambda_gradient, channel_dim):
    return _fast.checked(z, kappa, _positive(lam, floor), gated, lambda_gradient, check=False, channel_dim=channel_dim)


def _positive(lam, floor):
    """λ from the parameter that is trained."""
    lam = lam.to(_fast.working_dtype(lam))  # not in float16, where FLOOR is 0
    return torch.relu(lam) + FLOOR if floor == "released" else _fast.floor(lam)


def _range(name, values):
    try:
        low, high = map(float, values)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a range (low, high), got {values!r}") from None
    if not -math.inf < low <= high < math.inf:
        raise ValueError(f"{name} must be a range (low, high) with low ≤ high, both finite, got {values!r}")
    return low, high


def derivatives(z: torch.Tensor, kappa: Parameter, lam: Parameter, gated: bool, lambda_gradient: str = "exact"):
    """AGLU (gated) or APA at each z (n,), and its derivatives: {"value", "z", "kappa", "lam"}, each (n,).

    By automatic differentiation through labkit; lambda_gradient as for `apa`.

    >>> z = torch.tensor([0.0], dtype=torch.float64)
    >>> round(derivatives(z, 1.0, 1.0, gated=False)["z"].item(), 9)  # the slope of a sigmoid at 0
    0.25
    """
    # A channel for each z, so that the gradients of κ and λ come one for each z and not as a sum.
    point = [z.unsqueeze(0), torch.full_like(z, kappa), torch.full_like(z, lam)]
    point = [p.detach().requires_grad_() for p in point]
    value = (aglu if gated else apa)(*point, lambda_gradient=lambda_gradient)
    grads = torch.autograd.grad(value.sum(), point)
    return {"value": value.detach()[0], **dict(zip(("z", "kappa", "lam"), (g.reshape(-1) for g in grads)))}
