"""The arithmetic of APA and AGLU (formulas and letters: see `activations`), in two forms.

The plain form is what compilers, torch.func, GPUs and second derivatives take. On a CPU each of its passes would write
a new array, and take longer to get the memory than to compute. There the second form takes the numbers through all
passes block by block, in arrays that are used again. Tests hold the two equal.
"""

import functools
import math
from collections.abc import Iterator

import torch

from labkit._fast.layout import layout

# --- the plain form -----------------------------------------------------------------------------------------------

# Where −κz exceeds this, E is held there and what is missing is added to s = ln(1 + u), which is ln λ − κz to the last
# digit (or so large that η is 0). Nothing overflows, and no λ that leaves η above 0 sees a difference.
LIMIT = {torch.float32: 64.0, torch.float64: 600.0}
# From this v on, s − v has its digits; below, a Padé approximant of the bracket is within 1e-6 and 1e-13 of it.
CANCELS = {torch.float32: 0.2, torch.float64: 0.008}


def value(z: torch.Tensor, kappa: torch.Tensor, lam: torch.Tensor, gated: bool, power: float) -> torch.Tensor:
    """η^power or, where gated, z·η^power. κ and λ broadcast to z and have the dtype to work in."""
    wide = z.to(kappa.dtype)
    eta = _eta(_powers(wide, kappa, lam)[-1], lam, power)
    return (wide * eta if gated else eta).to(z.dtype)


def gradients(grad, z, kappa, lam, needs, gated: bool, paper: bool, power: float, root=None) -> tuple:
    """Gradients of z, κ and λ, None where not needed; root is √(η^power), which multiplies first and last."""
    wide = z.to(kappa.dtype)
    e, u, s = _powers(wide, kappa, lam)
    q = e / (1 + u)
    if root is None:
        root = _eta(s, lam, power / 2)
    outer = grad.to(kappa.dtype) * root
    slope = power * (outer * wide if gated else outer) * q
    of_z = of_kappa = of_lam = None
    if needs[0]:
        of_z = ((outer + slope * kappa if gated else kappa * slope) * root).to(z.dtype)
    if needs[1]:
        of_kappa = (wide * slope * root).sum_to_size(kappa.shape)
    if needs[2]:
        factor = -1 / lam if paper else q * _bracket(s, lam * q)
        of_lam = (slope * factor * root).sum_to_size(lam.shape)
    return of_z, of_kappa, of_lam


def _bracket(s, v):
    """(s − v)/v² = 1/2 + v/3 + v²/4 + … to full precision, where s = −ln(1 − v) and 0 ≤ v < 1."""
    pade = (90 + v * (v - 60)) / (180 + v * (72 * v - 240))  # of the series, numerator and denominator of degree 2
    above = v.clamp(min=CANCELS[v.dtype])
    return torch.maximum(pade, (s - above) / above.square())  # each falls short where it is not accurate


def _powers(z, kappa, lam):
    """E, u and s."""
    exponent, limit = z * -kappa, LIMIT[kappa.dtype]
    e = torch.exp(exponent.clamp(max=limit))
    u = lam * e
    return e, u, _log1p(u) + torch.relu(exponent - limit)


def _log1p(u):
    if not (torch.compiler.is_compiling() and u.device.type == "cpu"):
        return torch.log1p(u)
    # The logarithm of what 1 + u is rounded to, and a correction for that: as accurate, and quicker once compiled.
    w = 1 + u
    return torch.log(w) + (u - (w - 1)) / w


def _eta(s, lam, power):
    return torch.exp2(s * (-power / math.log(2) / lam))  # on a CPU a power of 2 is cheaper than one of e


# --- block by block -----------------------------------------------------------------------------------------------

BLOCK = 1 << 17  # numbers: enough for several threads (torch gives none less than 2^15), and few enough for the caches
SHIFT = 24  # gradients start from 2^k·η, 2^k about 2^24/λ: η can be too small for a normal number where z²q²·η is not

# E = 2^x is computed as it is for x between the first two: below, λE would be no normal number; above, it could
# overflow. The next two bound λ: beyond, η is what it is there to the last digit. The last: what rounding takes of s/v.
RANGES = {torch.float32: (-96.0, 64.0, 1e-9, 1e18, 6e-7), torch.float64: (-900.0, 900.0, 1e-18, 1e18, 2e-15)}


@functools.cache
def _number(value, dtype):
    """As a tensor a number that meets an array costs less in a call."""
    return torch.tensor(value, dtype=dtype, device="cpu")


ZERO, MINUS_ONE, TWELVE, BASE = (
    {dtype: _number(x, dtype) for dtype in RANGES} for x in (0.0, -1.0, 12.0, -1 / math.log(2))
)
START = {dtype: _number(-2 * (1 + RANGES[dtype][-1]), dtype) for dtype in RANGES}


def constants(z: torch.Tensor, kappa: torch.Tensor, lam: torch.Tensor) -> tuple:
    """κ, λ within its range, 1/λ and, for powers of 2, −κ and −1/λ: numbers if z has more than BLOCK, and one κ and λ
    for all, or else tensors of dimension 0 or z's.
    """
    least, most = RANGES[lam.dtype][2:4]
    if kappa.ndim or lam.ndim or z.numel() <= BLOCK:
        if lam.ndim or not least <= lam.item() <= most:
            lam = lam.clamp(least, most)
        inverse = lam.reciprocal()
        return kappa, lam, inverse, kappa * BASE[lam.dtype], inverse * BASE[lam.dtype]
    kappa, lam, base = kappa.item(), min(max(lam.item(), least), most), -1 / math.log(2)
    return kappa, lam, 1 / lam, kappa * base, base / lam


def value_by_blocks(z: torch.Tensor, dtype: torch.dtype, constants: tuple, gated: bool, keep: bool) -> tuple:
    """As `value` with power 1, for z that is not empty, computed in dtype; what `_logarithm` returned; and, if the
    gradients are to have it, s in the order of z's memory. For z of a half type it is None: twice as large as z.
    """
    if z.numel() <= BLOCK:
        return _value_at_once(z, dtype, *constants, gated, keep)
    flat, restored, (_, lam, _, slope, rate) = layout(z, constants)
    flat_z = flat(z)
    out = torch.empty_like(flat_z)
    kept = torch.empty_like(flat_z) if keep and z.dtype == dtype else None
    wanted, held = (z.dtype != dtype) + (kept is None), False
    for room, out_b, s, z_b, slope_b, lam_b, rate_b in _blocks(wanted, dtype, out, kept, flat_z, slope, lam, rate):
        z_b, eta = z_b.to(dtype), out_b if z.dtype == dtype else room[0]
        held |= _logarithm(z_b, slope_b, lam_b, eta, s := room[-1] if s is None else s)
        torch.exp2(_times(s, rate_b, eta), out=eta)
        if gated:
            torch.mul(eta, z_b, out=out_b)
        elif eta is not out_b:
            out_b.copy_(eta)
    return restored(out), held, kept


def gradients_by_blocks(grad, z, dtype, constants: tuple, needs, gated: bool, paper: bool, held: bool, kept):
    """As `gradients` with power 1, for z that is not empty; held and kept are those of `value_by_blocks`."""
    if z.numel() <= BLOCK:
        return _gradients_at_once(grad, z, *constants, needs, gated, paper, held, kept)
    flat, restored, (kappa, lam, inverse, slope, rate) = layout(z, constants)
    channels = isinstance(lam, torch.Tensor)
    flat_z = flat(z)
    of_z = torch.empty_like(flat_z)
    least = lam.min().item() if channels else lam
    power = _shift(least)
    shift, back = _number(power, dtype), 2.0**-power
    sums = torch.zeros(2, 1, flat_z.shape[1], 1, dtype=dtype, device="cpu").unbind() if channels else (None, None)
    totals = [0.0, 0.0]  # of all blocks, where there are no channels
    arrays, factors = (of_z, *sums, kept, flat_z, flat(grad)), (slope, lam, rate, kappa * inverse)
    room = 4 if kept is not None else 5
    for (v, p, w, b, *more), of_z_b, of_kappa, of_lam, s, z_b, grad_b, *numbers in _blocks(
        room, dtype, *arrays, *factors
    ):
        slope_b, lam_b, rate_b, share = numbers
        z_b = z_b.to(dtype)
        if s is None:
            _logarithm(z_b, slope_b, lam_b, v, s := more[0])
            v.div_(torch.add(MINUS_ONE[dtype], v, alpha=-1, out=p))  # −u/(1+u), from u
        else:
            torch.expm1(torch.neg(s, out=v), out=v)
        torch.exp2(_plus(shift, s, rate_b, p), out=p).mul_(grad_b)  # 2^k·η times what came back to it
        torch.mul(torch.mul(p, z_b, out=w) if gated else p, v, out=w)
        if held:
            _without_the_hold(w, z_b, slope_b)
        if needs[0]:
            _times(_plus(p, w, share, p, -1) if gated else _times(w, share, p), back if gated else -back, of_z_b)
        if needs[1]:
            totals[0] += _sum(w, z_b, of_kappa, p)
        if needs[2] and paper:
            totals[1] += _sum(w, p.fill_(-2), of_lam, p)
        elif needs[2]:
            totals[1] += _sum(w, _twice_the_bracket(s, v, b), of_lam, p)
    found = [restored(of_z)]
    for total, of_channels, factor, given in zip(totals, sums, (inverse, inverse * inverse / 2), constants):
        if channels:
            total = (of_channels * factor).mul_(-back)
            found.append(total.reshape(given.shape) if given.ndim else total.sum())
        else:
            found.append(torch.scalar_tensor(total * factor * -back, dtype=dtype, device="cpu"))
    return tuple(g if need else None for g, need in zip(found, needs))


# With at most BLOCK numbers calls count too: the same in fewer of them, and new arrays.


def _value_at_once(z, dtype, kappa, lam, inverse, slope, rate, gated, keep):
    wide = z.to(dtype)
    s = torch.empty_like(wide)
    held = _logarithm(wide, slope, lam, s, s)
    eta = torch.exp2(s * rate)
    return (eta.mul_(wide) if gated else eta).to(z.dtype), held, s if keep and z.dtype == dtype else None


def _gradients_at_once(grad, z, kappa, lam, inverse, slope, rate, needs, gated, paper, held, s):
    dtype, wide = lam.dtype, z.to(lam.dtype)
    if s is None:
        v, s = torch.empty_like(wide), torch.empty_like(wide)
        _logarithm(wide, slope, lam, v, s)
        v.div_(torch.add(MINUS_ONE[dtype], v, alpha=-1))  # −u/(1+u), from u
    else:
        v = s.neg().expm1_()
    power = _shift(lam.min().item())
    back, minus, half = (_number(x * 2.0**-power, dtype) for x in (1.0, -1.0, -0.5))
    p = (s * rate).add_(_number(power, dtype)).exp2_().mul_(grad)  # 2^k·η times what came back
    w = (p * wide).mul_(v) if gated else p * v
    if held:
        _without_the_hold(w, wide, slope)
    of_z = of_kappa = of_lam = None
    if needs[0]:
        share = kappa * inverse
        of_z = torch.addcmul(p, w, share, value=-1).mul_(back) if gated else (w * share).mul_(minus)
        of_z = of_z.to(z.dtype)
    if needs[1]:
        of_kappa = _summed(w, wide, inverse, minus, kappa)
    if needs[2]:
        twice = torch.full_like(s, -2) if paper else _twice_the_bracket(s, v, torch.empty_like(s))
        of_lam = _summed(w, twice, inverse * inverse, half, lam)
    return of_z, of_kappa, of_lam


def _summed(a, b, factor, sign, like):
    """The sums of a·b for each channel, or of all, times factor and sign, in the shape of `like`, which is κ or λ."""
    if not (factor.ndim or like.ndim):
        return torch.dot(a.reshape(-1), b.reshape(-1)).mul_(factor).mul_(sign)
    sums = (a * b).sum_to_size(factor.shape if factor.ndim else like.shape).mul_(factor).mul_(sign)
    return sums if like.ndim else sums.sum()


def _twice_the_bracket(s, v, room):
    """Write 2(s − v)/v to room; v is lost.

    (s − v)/v = max(s·R, s/v − 1), where R = 1/2 + s/12 − s³/720 + … is 1/2 + s/(12 + s²/5), to 1e-6 or 1e-13 as long as
    the other loses its digits. Each falls short where it is not accurate.
    """
    torch.div(s, torch.addcmul(TWELVE[s.dtype], s, s, value=0.2, out=room), out=room)
    torch.addcmul(s, s, room, value=2, out=room)
    torch.add(START[s.dtype], torch.div(s, v, out=v), alpha=-2, out=v)
    return torch.maximum(room, v, out=room)


def _shift(least):
    """k, where the smallest λ is `least`: see SHIFT."""
    return min(max(SHIFT - round(math.log2(least)), 0), 60)


def _logarithm(z, slope, lam, e, s):
    """Write s, and u to e, which may be s itself; z may be of a half type. Returns whether an E was held from below."""
    low, high, *_ = RANGES[e.dtype]
    least, most = torch.aminmax(_times(z, slope, e))
    outside = not (low <= least.item() and most.item() <= high)
    if outside:
        beyond = torch.relu(e - high).mul_(math.log(2))
        e.clamp_(low, high)
    torch.log1p(_times(torch.exp2(e, out=e), lam, e), out=s)
    if outside:
        s.add_(beyond)  # to ln u, which s is to the last digit
    return not low <= least.item()


def _without_the_hold(w, z, slope):
    """Multiply w, which has a factor q = E to the last digit where E was held from below, by what E lacks there."""
    w.mul_((z * slope).sub_(RANGES[w.dtype][0]).clamp_(max=0).exp2_())


def _times(array, factor, out):
    """array · factor, a number (which costs the least in a call as `alpha`) or a tensor with one for each channel."""
    if isinstance(factor, float):
        return torch.add(ZERO[array.dtype], array, alpha=factor, out=out)
    return torch.mul(array, factor, out=out)


def _plus(start, array, factor, out, sign=1):
    """start ± array · factor; start is an array of that shape, or 0-dimensional."""
    if isinstance(factor, float):
        return torch.add(start, array, alpha=sign * factor, out=out)
    if start.ndim:
        return torch.addcmul(start, array, factor, value=sign, out=out)
    return torch.mul(array, factor, out=out).add_(start)  # addcmul with two of other shapes takes each by itself


def _sum(a, b, of_channels, room):
    """The sum of a·b as a number; or, where there are channels, 0.0 and the sums added to `of_channels`."""
    if of_channels is None:
        return torch.dot(a, b).item()
    of_channels += torch.mul(a, b, out=room).sum((0, 2), keepdim=True)
    return 0.0


def _blocks(count: int, dtype: torch.dtype, first, *others) -> Iterator[tuple]:
    """Pieces of `first` (contiguous) of at most BLOCK numbers and the same pieces of the others (numbers, or tensors of
    size 1 or no dimension where they broadcast); before each, `count` arrays of its shape to work in.

    The arrays are new in each call, since calls come from several threads.
    """
    room = torch.empty(count, BLOCK, dtype=dtype, device="cpu")
    for piece, *rest in _cut(first, *others):
        yield room[:, : piece.numel()].view(count, *piece.shape).unbind(), piece, *rest


def _cut(first, *others):
    if first.numel() <= BLOCK:
        yield first, *others
        return
    dim, size = next((d, size) for d, size in enumerate(first.shape) if size > 1)
    count = -(-size // max(1, BLOCK * size // first.numel()))
    step = -(-size // count)  # so that the pieces are of about one size
    for i in range(0, size, step):
        n = min(step, size - i)
        yield from _cut(*(t.narrow(dim, i, n) if _long(t, dim) else t for t in (first, *others)))


def _long(t, dim):
    return isinstance(t, torch.Tensor) and t.ndim > dim and t.shape[dim] > 1
