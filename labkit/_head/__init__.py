"""What all heads share: the register they enter by being defined, their arguments, and the form that is taken."""

import contextlib
import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from labkit import checks, etf, system
from labkit._fast import fused as _fused
from labkit._fast import polar as _polar
from labkit._head.rows import wide

HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Variant:
    """A head of HEADS with some of its options, and how figures draw it."""

    head: str
    label: str
    colour: str
    dash: str
    options: dict = field(default_factory=dict)


HEADS = {}  # name: class; a class adds itself when it is defined
VARIANTS = {}  # name: Variant; every head as it is, and the heads of the comparisons with their options


class Head(nn.Module):
    """What all heads share. A new head is one class:

        class Mine(Head, name="mine", label="my head", colour="#555555", dash="dot"):
            def __init__(self, dim, num_classes, temperature=5.0, *, its_option=1, **common): ...

    that sets `weight` (…, C, d) and `bias` (…, C) or None, or writes its own `classify`. Trainers, the command line and
    figures find it by its name.

    dim: d. num_classes: C. temperature: τ, the norm of the features a head sees. learn_temperature: whether τ is a
    parameter. ignore_index: the label of samples that are to play no part. fused: True and False say which form to
    take; None takes the fast one where it serves: not in torch.compile or torch.func, nor with a learnt τ.
    generators: one torch.Generator for each of several independent heads, in a leading batch dimension, for training
    seeds side by side.
    """

    def __init_subclass__(cls, name=None, label=None, colour="#555555", dash="solid", **more):
        super().__init_subclass__(**more)
        cls.options = {}  # what the constructors of this class and its bases take beside size and temperature
        for base in cls.__mro__:
            if "__init__" in vars(base):
                found = inspect.signature(base.__init__).parameters.values()
                skip = ("self", "dim", "num_classes", "temperature", "generators")
                named = [p for p in found if p.name not in skip and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
                cls.options = {p.name: p.default for p in named} | cls.options
                if base is Head or all(p.kind != p.VAR_KEYWORD for p in found):
                    break
        if name is not None:
            cls.name, cls.label, cls.colour, cls.dash = name, label or name, colour, dash
            HEADS[name], VARIANTS[name] = cls, Variant(name, cls.label, colour, dash)

    def __init__(
        self,
        dim: int,
        num_classes: int,
        temperature: float = 5.0,
        *,
        learn_temperature: bool = False,
        ignore_index: int = -100,
        fused: bool | None = None,
        generators: Sequence[torch.Generator] | None = None,
    ):
        super().__init__()
        checks.classes(num_classes, dim, smallest_dim=1)
        checks.positive("temperature", temperature)
        self.dim, self.num_classes, self.temperature = int(dim), int(num_classes), float(temperature)
        self.ignore_index, self.fused = ignore_index, fused
        self.batch_shape = () if generators is None else (len(generators),)
        if learn_temperature:
            del self.temperature
            self.temperature = nn.Parameter(torch.full(self.batch_shape, float(temperature), dtype=wide()))

    def _apply(self, fn, recurse=True):
        """A head stays in float32 where a model is cast to half precision, which cannot tell the steps of its state."""

        def cast(tensor):
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype in HALF and tensor.dtype not in HALF else moved

        return super()._apply(cast, recurse)

    @contextlib.contextmanager
    def gather(self):
        """Calls inside count as one step of the head's state. Only an implicit head has one; others do nothing here."""
        yield self

    def normalize(self, features: torch.Tensor) -> torch.Tensor:
        """h = τ·z/‖z‖, shape (…, N, d). A feature shorter than 1e-12 counts as zero and becomes zero."""
        return on_sphere(features, self._tau(features))

    def forward(self, features: torch.Tensor, targets: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (…, N, C) of features z (…, N, d); in float32 for half-precision features.

        Without `generators`, features may have more dimensions, such as (B, T, d) of tokens.
        targets: labels (…, N), or (N,) where all runs share them, or probabilities (…, N, C) as mixing images makes
            them. Rows with the label `ignore_index` have logits, but play no part in class means.
        """
        z, targets, shape = self._take(features, targets)
        return self._classify(z, targets).reshape(*shape, self.num_classes)

    @_polar.full_precision
    def _classify(self, z, targets):
        return self.classify(z, targets)

    def classify(self, z: torch.Tensor, targets: torch.Tensor | None):
        """`forward` of features (…, N, d) and targets, whose shapes are known to be right; ignored labels are C."""
        return self.logits(z, self.weight, self.bias)

    def logits(self, z: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None):
        """⟨w_c, h⟩ + b_c."""
        weight, bias = weight.to(z.dtype), None if bias is None else bias.to(z.dtype)
        if (radius := self._radius(z)) is not None:
            return _fused.SphereLogits.apply(z, radius, weight, bias, self.temperature)
        logits = self.normalize(z) @ weight.mT
        return logits if bias is None else logits + bias.unsqueeze(-2)

    def _radius(self, z):
        """τ/‖z‖ (…, N, 1) where the fast form is to be taken, None where the plain one is."""
        learnt = isinstance(self.temperature, nn.Parameter)
        if self.fused is False or learnt or _polar.transformed():
            if self.fused:
                raise RuntimeError("fused=True: there is no fast form under torch.compile, torch.func or a learnt τ")
            return None
        radius = _fused.radius_of(z.detach(), self.temperature)
        return radius if bool(radius.all()) and math.isfinite(radius.sum()) else self._radius_of_odd(z, radius)

    def _radius_of_odd(self, z, radius):
        """The same where some features are zero, not finite, or so long that the sum of their squares overflows."""
        long = (radius == 0) & (z.abs().amax(-1, keepdim=True) > 1)
        return None if bool(long.any()) else radius

    def _tau(self, z):
        tau = self.temperature
        return tau[..., None, None].to(z.dtype) if isinstance(tau, torch.Tensor) else tau

    def _take(self, features, targets):
        """Features (…, N, d) in float32 at least, targets that belong to them, and the shape of the samples."""
        checks.floating("features", features)
        shape, runs = features.shape[:-1], len(self.batch_shape)
        if len(shape) <= runs or features.shape[-1] != self.dim or shape[:runs] != self.batch_shape:
            raise ValueError(
                f"features must have shape {(*self.batch_shape, 'N', self.dim)}, got {tuple(features.shape)}"
            )
        z = features.float() if features.dtype in HALF else features
        if targets is not None:
            targets = self._labels(targets, shape)
        if len(shape) > runs + 1:
            z = z.flatten(runs, -2)
            targets = None if targets is None else targets.flatten(runs, len(shape) - 1)
        return z, targets, shape

    def _labels(self, targets, shape):
        """Probabilities as they are; labels as int64, with C in the place of `ignore_index`."""
        C, look = self.num_classes, not _polar.transformed()
        if isinstance(targets, torch.Tensor) and targets.is_floating_point() and targets.ndim > len(shape):
            if targets.shape != (*shape, C):
                raise ValueError(f"targets as probabilities must have shape {(*shape, C)}, got {tuple(targets.shape)}")
            if look and not bool((targets >= 0).all() & ((targets.sum(-1) - 1).abs() < 1e-2).all()):
                raise ValueError("targets as probabilities must be at least 0 and add up to 1 over classes")
            return targets
        # As int64: torch takes −100 for 156 where labels are uint8.
        ignored = targets.long() == self.ignore_index if isinstance(targets, torch.Tensor) else None
        if look:
            some = ignored is not None and targets.numel() > 0 and bool(ignored.any())
            if some and bool(ignored.all()):
                raise ValueError(f"targets must hold at least one label, got only ignore_index={self.ignore_index}")
            filled = targets.long() if some and str(targets.dtype).startswith("torch.uint") else targets
            checks.labels(filled.masked_fill(ignored, 0) if some else filled, C, shape)
            if len(shape) > len(self.batch_shape) + 1 and targets.shape != shape:
                raise ValueError(f"targets must have shape {tuple(shape)}, got {tuple(targets.shape)}")
            if not some:
                return targets.long()
        return targets.long().masked_fill(ignored, C)

    def _draw(self, generators, draw):
        """draw(generator) once for each run, stacked; or once with the global generator."""
        return draw(None) if generators is None else torch.stack([draw(g) for g in generators])

    def _frames(self, kind, generators):
        """A frame to start from (d, C), or of that kind for each run."""
        checks.classes(self.num_classes, self.dim, smallest_dim=self.num_classes - 1)
        checks.one_of("frame", kind, ("canonical", "haar"))
        if kind == "canonical":
            return etf.frame_of(self.dim, self.num_classes)
        return self._draw(generators, lambda g: etf.frame_of(self.dim, self.num_classes, kind, g))

    def extra_repr(self):
        tau = torch.as_tensor(self.temperature).mean().item()
        return f"dim={self.dim}, num_classes={self.num_classes}, temperature={tau:g}"


def on_sphere(z: torch.Tensor, temperature: torch.Tensor | float):
    """τ·z/‖z‖; zero for rows shorter than 1e-12."""
    z = z / z.detach().abs().amax(-1, keepdim=True).clamp(min=1)  # the squares of very large numbers overflow
    norm = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
    return z * (temperature / norm.masked_fill(norm < 1e-12, math.inf))


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of their gradients.

    torch.distributed.nn has such a sum too, but keeps hold of the group that was there at its import: its threads
    outlive destroy_process_group, and now and then abort the process when Python ends.
    """

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        return system.over_processes(tensor.clone(memory_format=torch.contiguous_format))[0]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return _Sum.apply(gradient)


def over_processes(tensor: torch.Tensor):
    """The tensor, added up over all processes where there are several; so is its gradient."""
    return _Sum.apply(tensor) if system.several() else tensor


def move(module: torch.nn.Module, **buffers: Any):
    """Give buffers new values: in place, but not in a compiled graph, whose backward may read the old ones again."""
    for name, value in buffers.items():
        if torch.compiler.is_compiling():
            setattr(module, name, value.to(getattr(module, name).dtype))
        else:
            getattr(module, name).copy_(value)


def options_of(name: str, **options: Any) -> dict:
    """The options of a head that VARIANTS calls `name`, defaults and given ones. Raises ValueError for unknown ones.

    >>> options_of("fixed_haar")["frame"]
    'haar'
    """
    checks.one_of("head", name, tuple(VARIANTS))
    known = HEADS[VARIANTS[name].head].options
    if unknown := [key for key in options if key not in known]:
        raise ValueError(f"the head {name!r} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    return known | VARIANTS[name].options | options


def make(
    name: str,
    dim: int,
    num_classes: int,
    temperature: float = 5.0,
    generators: Sequence[torch.Generator] | None = None,
    **options: Any,
) -> Head:
    """The head that VARIANTS calls `name`; options: more of its constructor's, of which unknown ones are refused.

    >>> make("fixed_haar", 16, 4).weight.shape
    torch.Size([4, 16])
    """
    options = options_of(name, **options)
    return HEADS[VARIANTS[name].head](dim, num_classes, temperature, generators=generators, **options)
