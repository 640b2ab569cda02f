"""A residual network on images of 8×8 pixels; every activation and every gate has a pair (κ, λ) of its own."""

from collections.abc import Callable

import torch
from torch import nn

from labkit.activations import AGLU, APA

Range = tuple[float, float]  # what κ or λ is drawn from, uniformly
KAPPA = (1.0, 1.3)  # the ranges of the supplement's Table 2
LAMBDA = (0.0, 1.0)


class Gate(nn.Module):
    """Channel attention: z · APA(B·AGLU(A z)), as squeeze-and-excite for features that have no places to average
    over.
    """

    def __init__(self, width: int, kappa_init: Range, activation: Callable[[], nn.Module]):
        super().__init__()
        self.squeeze, self.excite = nn.Linear(width, width // 4), nn.Linear(width // 4, width)
        self.inner, self.gate = activation(), APA(kappa_init, LAMBDA)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return z * self.gate(self.excite(self.inner(self.squeeze(z))))


class Block(nn.Module):
    """AGLU(z + branch(z)), a residual block with its second activation after the sum, as in a ResNet."""

    def __init__(self, width: int, activation: Callable[[], nn.Module], gate: nn.Module | None = None):
        super().__init__()
        self.branch = nn.Sequential(
            nn.Linear(width, width, bias=False),
            nn.BatchNorm1d(width),
            activation(),
            nn.Linear(width, width, bias=False),
            nn.BatchNorm1d(width),
            *([gate] if gate else []),
        )
        self.after = activation()

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.after(z + self.branch(z))


class DigitNet(nn.Sequential):
    """A residual network on images of 8×8 pixels; each AGLU and each APA has a pair (κ, λ) of its own.

    kappa_init, lambda_init, lambda_gradient, floor: of the AGLU layers (2·blocks + 1, and one in each gate).
    gate_kappa_init: range of κ of the APA gates, or None for no gates. activation: a class to use in place of AGLU.
    one_sign: make κ positive in the AGLUs that the shortcuts pass, all but those inside branches.
    """

    def __init__(
        self,
        blocks: int = 4,
        width: int = 64,
        kappa_init: Range = KAPPA,
        lambda_init: Range = LAMBDA,
        lambda_gradient: str = "exact",
        gate_kappa_init: Range | None = None,
        activation: Callable[[], nn.Module] | None = None,
        one_sign: bool = False,
        floor: str = "one-sided",
    ):
        act = activation or (lambda: AGLU(kappa_init, lambda_init, lambda_gradient=lambda_gradient, floor=floor))
        gates = [Gate(width, gate_kappa_init, act) if gate_kappa_init else None for _ in range(blocks)]
        super().__init__(
            nn.Flatten(),
            nn.Linear(64, width, bias=False),
            nn.BatchNorm1d(width),
            act(),
            *(Block(width, act, gate) for gate in gates),
            nn.Linear(width, 10),
        )
        with torch.no_grad():
            for layer in (self[3], *(m.after for m in self if isinstance(m, Block))) if one_sign else ():
                layer.kappa.abs_()

    def parameters_of(self, kind: type[nn.Module]) -> tuple[list[float], list[float]]:
        """The (κ, λ) of all layers of that class, from the input on: two lists of floats. λ is the one that is used, at
        its floor or above.
        """
        layers = [m for m in self.modules() if isinstance(m, kind)]
        return [m.kappa.item() for m in layers], [m.used_lam.item() for m in layers]
