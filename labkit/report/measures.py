"""The measures that the core does not have, and what every measure of a report is called and means.

As in `labkit.metrics`: class vectors are rows (…, C, d), everything is in float64, and Σ_W and Σ_B are divided by N and
by C. Codebases differ in the global mean: of all samples (Guiding Neural Collapse; tding1), or of the class means
(rhubarbwu, by default). It is an argument here; with balanced classes the two are equal.
"""

import math
from importlib.util import find_spec

import torch
from torch import Tensor

from labkit import checks, metrics
from labkit.system import import_torchvision

# name: (label, what it is)
MEASURES = {
    "accuracy": ("accuracy", "share of samples that the classifier puts in their class"),
    "nearest_mean_accuracy": (
        "nearest-mean accuracy",
        "share of samples whose nearest class mean is that of their class",
    ),
    "nc1": ("NC1", "tr(Σ_W Σ_B†)/C: Papyan et al. 2020, with the pseudo-inverse of the true rank"),
    "nc1_svd": ("NC1, svd", "tr(Σ_W Σ_B⁺)/C with the C−1 largest singular values of Σ_B; NaN where it has not so many"),
    "nc1_quotient": ("NC1, quotient", "tr Σ_W / tr Σ_B: Tirer & Bruna 2022"),
    "cdnv": ("CDNV", "mean over pairs of classes of (V_i + V_j)/(2‖m_i − m_j‖²): Galanti et al. 2022"),
    "numerical_rank": ("numerical rank", "mean over classes of (‖H_c‖_*/‖H_c‖_F)², 1 where a class is a point"),
    "nc2": ("NC2 (weights)", "‖WWᵀ/‖WWᵀ‖_F − P/√(C−1)‖_F"),
    "nc2_means": ("NC2 (means)", "the same of the centred class means"),
    "equinorm_weights": ("equinorm (weights)", "unbiased standard deviation over mean of the lengths"),
    "equinorm_means": ("equinorm (means)", "the same of the centred class means"),
    "uniformity_distance": ("mean distance", "mean over pairs of ‖a − b‖, unit centred means a, b: Liu et al. 2023"),
    "uniformity_log": ("log energy", "mean over pairs of ln(1/‖a − b‖)"),
    "uniformity_riesz": ("Riesz energy", "mean over pairs of ‖a − b‖^−(d−2)"),
    "minimal_margin_means": ("minimal margin (means)", "1 − cos of the nearest two centred means: Jiang et al. 2023"),
    "nc3": ("NC3 (self-duality)", "‖WH̄/‖WH̄‖_F − P/√(C−1)‖_F with the centred class means H̄"),
    "cosine_margin": (
        "mean cosine margin",
        "cosine to the own class vector less the largest other; C/(C−1) at collapse",
    ),
    "smallest_margin": ("smallest cosine margin", "of all samples"),
    "nc4": ("NC4 (disagreement)", "share of samples that classifier and nearest class mean put in different classes"),
    "nc4_bias": ("NC4 (bias)", "‖W μ + b‖ with the global mean μ: Zhu et al. 2021"),
    "nc5": ("NC5", "mean over classes of |cos(m_c, mean of the out-of-distribution features)|: Ammar et al. 2024"),
    "neco_auroc": (
        "NECO, AUROC",
        "of ‖Px‖/‖x‖ on C−1 principal directions P, features standardised: Ammar et al. 2024",
    ),
    "nci_auroc": ("NCI, AUROC", "of ⟨h − μ, w_c⟩/‖h − μ‖ + α‖h‖₁ with the class c that is predicted: Liu & Qin 2025"),
}


def global_mean(class_means: Tensor, mean_of_samples: Tensor, centre: str) -> Tensor:
    """μ (…, d) of the convention `centre`, "samples" or "classes"."""
    checks.one_of("centre", centre, ("samples", "classes"))
    return mean_of_samples if centre == "samples" else class_means.mean(-2)


def of_one_pass(num_classes: int, dim: int, weights: bool) -> list[str]:
    """The names of the measures that `of_spread` and `of_means` give, with weights or without."""
    names = ["nc1", "nc1_svd", "nc1_quotient", "cdnv", "nc2_means", "equinorm_means"]
    if num_classes > dim:
        names += ["uniformity_distance", "uniformity_log", "uniformity_riesz", "minimal_margin_means"]
    return names + (["nc2", "nc3", "equinorm_weights", "nc4_bias"] if weights else [])


def of_means(class_means: Tensor, mu: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> dict:
    """What the class means (…, C, d), the global mean (…, d), weights (…, C, d) and bias (…, C) say by themselves."""
    centred, (num_classes, dim) = class_means - mu.unsqueeze(-2), class_means.shape[-2:]
    values = {"nc2_means": metrics.nc2(centred), "equinorm_means": metrics.equinorm(centred)}
    if num_classes > dim:
        values |= {f"uniformity_{kernel}": uniformity(centred, kernel)[0] for kernel in ("distance", "log", "riesz")}
        values["minimal_margin_means"] = metrics.minimal_margin(centred)
    if weight is None:
        return values
    weight = weight.detach().to(centred.device).double()
    logits = (weight @ mu.unsqueeze(-1)).squeeze(-1)
    if bias is not None:
        logits = logits + bias.detach().to(centred.device).double()
    return values | {
        "nc2": metrics.nc2(weight),
        "nc3": metrics.from_simplex(weight @ centred.mT),
        "equinorm_weights": metrics.equinorm(weight),
        "nc4_bias": torch.linalg.vector_norm(logits, dim=-1),
    }


def of_spread(
    inside: Tensor, squares: Tensor, counts: Tensor, class_means: Tensor, mu: Tensor, whiten: Tensor
) -> dict[str, Tensor]:
    """NC1 in three conventions, and CDNV.

    inside: (…), the sum over samples of ‖Kᵀ(h − m_c)‖², K = whiten of `metrics.whitening`.
    squares, counts: (…, C), the sum of ‖h − m_c‖² of each class and its number of samples.
    """
    num_classes = class_means.shape[-2]
    samples = int(counts.sum(-1).max())
    between = (class_means - mu.unsqueeze(-2)).square().sum((-2, -1)) / num_classes
    full = (whiten.abs().amax(-2) > 0).sum(-1) == num_classes - 1
    nc1 = metrics.of_spread(inside / num_classes, samples, num_classes)
    spread = nc1 * 0  # NaN where nothing is known of the spread, which NC1 has said
    return {
        "nc1": nc1,
        "nc1_svd": torch.where(full, nc1, math.nan),
        "nc1_quotient": squares.sum(-1) / samples / between + spread,
        "cdnv": metrics.pair_variance(squares / counts, class_means) + spread,
    }


def uniformity(vectors: Tensor, kernel: str = "log") -> tuple[Tensor, Tensor]:
    """Hyperspherical uniformity of class vectors (…, C, d): mean and population variance over pairs, each (…).

    The kernel is of the distance r of two vectors at unit length: "distance" is r, "log" is ln(1/r) and "riesz" is
    r^−(d−2) (Liu et al. 2023). For C > d, where no simplex ETF fits, equal spread over the sphere takes its place. NaN
    where a vector is zero.

    >>> [round(v.item(), 6) for v in uniformity(torch.tensor([[1.0, 0.0], [-2.0, 0.0]]), "distance")]
    [2.0, 0.0]
    """
    checks.one_of("kernel", kernel, ("distance", "log", "riesz"))
    checks.finite("vectors", vectors)
    unit = vectors.double() / torch.linalg.vector_norm(vectors.double(), dim=-1, keepdim=True)
    i, j = torch.triu_indices(unit.shape[-2], unit.shape[-2], 1, device=unit.device)
    r = torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist")[..., i, j]
    values = {"distance": lambda: r, "log": lambda: -r.log(), "riesz": lambda: r ** (2 - unit.shape[-1])}[kernel]()
    return values.mean(-1), values.var(-1, correction=0)


def numerical_rank(scatter: Tensor, class_means: Tensor, counts: Tensor) -> Tensor:
    """Mean over classes of (‖H_c‖_*/‖H_c‖_F)², H_c the features of class c as they are   (Guiding Neural Collapse).

    scatter: (C, d, d), the sum of (h − m_c)(h − m_c)ᵀ of each class, of which the lower triangle is read.
    class_means (C, d); counts (C,).

    >>> numerical_rank(torch.zeros(1, 2, 2), torch.tensor([[3.0, 4.0]]), torch.tensor([5])).round(decimals=6).item()
    1.0
    """
    found = []
    for inside, mean, count in zip(scatter.double(), class_means.double(), counts):
        gram = inside + count * mean.outer(mean)
        squares = torch.linalg.eigvalsh(gram).clamp(min=0)  # of the singular values
        rounding = len(squares) * torch.finfo(squares.dtype).eps * squares[-1]
        squares = torch.where(squares > rounding, squares, 0.0)
        found.append(squares.sqrt().sum().square() / squares.sum())
    return torch.stack(found).mean()


def nc5(class_means: Tensor, outside_mean: Tensor) -> Tensor:
    """Mean over classes of |cos(m_c, m_OOD)|, not centred: class means (…, C, d), mean of the others (…, d) -> (…).

    >>> nc5(torch.eye(2), torch.tensor([0.0, 3.0])).item()
    0.5
    """
    means, outside = _unit(class_means.double()), _unit(outside_mean.double())
    return (means * outside.unsqueeze(-2)).sum(-1).abs().mean(-1)


def _unit(vectors):
    """Vectors at unit length, however short they are: torch's own functions count those below 1e-8 or 1e-12 as zero."""
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / length.masked_fill(length == 0, 1.0)


def neco(features: Tensor, mean: Tensor, covariance: Tensor, directions: int) -> Tensor:
    """NECO score (n,) of features (n, d): the share ‖Px‖/‖x‖ of their length in the leading principal directions.

    mean (d,), covariance (d, d): of the in-distribution features. x is h standardised by them, as in the released code,
    and P its `directions` leading principal directions. The released code also multiplies by the largest logit for some
    networks; here it does not.
    """
    deviation = covariance.diagonal().clamp(min=0).sqrt()
    deviation = torch.where(deviation > 1e-12 * deviation.max(), deviation, 1.0)
    _, axes = torch.linalg.eigh(covariance / deviation.outer(deviation))
    x = (features.double() - mean) / deviation
    return torch.linalg.vector_norm(x @ axes[:, -directions:], dim=-1) / torch.linalg.vector_norm(x, dim=-1)


def nci(features: Tensor, mean: Tensor, weight: Tensor, guess: Tensor, alpha: float = 1e-3) -> Tensor:
    """NCI score (n,) of features (n, d): ⟨h − μ, w_c⟩/‖h − μ‖ + α‖h‖₁, c = guess (n,) the class that is predicted."""
    h = features.double()
    return (_unit(h - mean) * weight.double()[guess]).sum(-1) + alpha * h.abs().sum(-1)


def auroc(inside: Tensor, outside: Tensor) -> float:
    """Probability that a score of `inside` (n,) is above one of `outside` (m,), ties counted half; by torchmetrics.

    >>> auroc(torch.tensor([30.0, 40.0]), torch.tensor([10.0, 35.0]))
    0.75
    """
    if find_spec("torchvision"):
        import_torchvision()  # torchmetrics imports it too, and it can need a hand
    try:
        from torchmetrics.functional.classification import binary_auroc
    except ImportError:
        raise ImportError(
            "the AUROC of out-of-distribution scores needs torchmetrics: pip install 'neural-collapse-lab[report]'"
        ) from None
    scores = torch.cat([inside, outside]).double().cpu()
    checks.finite("scores", scores)
    # torchmetrics takes scores outside 0 … 1 for logits: their sigmoids would be equal where scores are large
    levels, place = torch.unique(scores, return_inverse=True)
    among = torch.cat([torch.ones(len(inside)), torch.zeros(len(outside))]).long()
    return binary_auroc(place.double() / max(1, len(levels) - 1), among).item()
