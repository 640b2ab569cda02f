"""The measures of any network's features, layer by layer: a tidy table and a figure of one page."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from labkit import checks, metrics, system
from labkit.report import capture, measures
from labkit.report.layer import CHUNK, Layer, wide
from labkit.streaming import KEEP, twice


@dataclass
class CollapseReport:
    """What `collapse` found: `table`, a DataFrame with a row for each layer and measure (columns layer, measure, value
    and convention), the number of samples and classes, and `margins`, the cosine margin of each sample of this process.
    """

    table: pd.DataFrame
    samples: int
    num_classes: int
    margins: Tensor | None = None

    def __getitem__(self, measure: str) -> float:
        """A measure of the last layer that has it: the features that the classifier sees, where there is one."""
        found = self.table.loc[self.table["measure"] == measure, "value"]
        if found.empty:
            raise KeyError(f"{measure!r} was not measured; there are {', '.join(self.table['measure'].unique())}")
        return float(found.iloc[-1])

    def wide(self) -> pd.DataFrame:
        """A row for each measure, a column for each layer."""
        table = self.table.pivot(index="measure", columns="layer", values="value")
        return table.reindex([m for m in measures.MEASURES if m in table.index])[list(self.table["layer"].unique())]

    def figure(self, title: str | None = None):
        """The report as one page, a plotly figure."""
        from labkit.plots.report import report  # plotly is not part of the base installation

        return report(self.table, self.num_classes, title or f"{self.samples} samples, {self.num_classes} classes")

    def _repr_html_(self):
        return self.wide().to_html(float_format="{:.4g}".format, na_rep="")


def collapse(
    model: nn.Module,
    loader: Iterable,
    layers: Sequence[str] | None = None,
    classifier: str | nn.Module | None = None,
    *,
    num_classes: int | None = None,
    ood_loader: Iterable | None = None,
    id_loader: Iterable | None = None,
    centre: str = "samples",
    pool: Callable[[Tensor], Tensor] = capture.pooled,
    nci_alpha: float = 1e-3,
    device: Any = None,
    keep: int = KEEP,
) -> CollapseReport:
    """Measure how far the features of a network have collapsed.

    model: any torch module; its forward pass takes the inputs of a batch.
    loader: batches (inputs, labels (n,)), where anything further is passed over, or mappings with "labels"; the same
        samples each time it is read, so without random augmentation. It is read twice, unless the features fit into
        `keep` bytes: then they are kept from the first pass.
    layers: names of `model.named_modules()` whose outputs are measured too. pool makes one vector of each sample's
        output: maps (n, d, h, w) are averaged over places and tokens (n, t, d) over tokens, see `capture.pooled`.
    classifier: the module with a weight (C, d), and a bias or none, or its name; else the last nn.Linear or labkit head
        that runs. What goes into it is measured under the name "before …", as the last layer, with the measures that
        need weights; of a labkit head as it sees them, on its sphere.
    num_classes: C, needed only where there is no classifier.
    ood_loader: out-of-distribution inputs (labels are ignored): adds nc5, and the AUROC of NECO and NCI of the samples
        in `id_loader`, held out ones, or else in loader, against these; needs torchmetrics.
    centre: the global mean, of all "samples" or of the "classes"; see `labkit.report.measures` for all conventions.
    nci_alpha: the weight of ‖h‖₁ in NCI, which its paper chooses for each network.
    device: where the inputs go; else where the model's first parameter is.

    The model is in evaluation mode meanwhile, without gradients, and afterwards as it was. Sums are in float64 whatever
    the features are. In several processes each reads a share, and all get the measures of all samples; a sampler that
    repeats samples to fill up makes them count twice. numerical_rank takes C×d×d numbers for each layer, and is left
    out, with a warning, where these are more than a layer's share of `keep` bytes.

    Raises ValueError where no classifier is found, unless layers are named and num_classes is given, for a layer that
    is not there or runs more than once, for a class without a sample, and where the second pass brings other samples;
    checks.NotFinite for features that are not finite.

    >>> model, labels = nn.Sequential(nn.Linear(2, 2)), torch.tensor([0, 0, 1, 1])
    >>> inputs = torch.tensor([[0.0, 0.0], [0.0, 2.0], [0.0, 8.0], [0.0, 10.0]])
    >>> round(collapse(model, [(inputs, labels)])["nc1"], 9)
    0.03125
    """
    checks.one_of("centre", centre, ("samples", "classes"))
    watch = capture.Watch(model, list(layers or []), classifier, pool, device)
    with capture.evaluation(model):
        first, second = twice(lambda: watch.read(loader), keep, _bytes, _longer)
        sums, total = _first_pass(first, watch, num_classes)
        classes = len(total)
        share = keep // len(sums)
        found = {name: Layer(name, sums[name], total, watch, centre, share, ood_loader is not None) for name in sums}
        for batch in second():
            for name, layer in found.items():
                layer.add(batch.features[name], batch.labels, batch.guess)
        rows = {name: layer.finished() for name, layer in found.items()}
        if ood_loader is not None:
            again = second if id_loader is None else lambda: watch.read(id_loader, labelled=False)
            for name, values in _out_of_distribution(found, again, watch, ood_loader, nci_alpha).items():
                rows[name] |= values
    known = list(measures.MEASURES)
    table = pd.DataFrame(
        [
            (name, measure, float(values[measure]), measures.MEASURES[measure][1])
            for name, values in rows.items()
            for measure in sorted(values, key=known.index)
        ],
        columns=["layer", "measure", "value", "convention"],
    )
    last = list(found.values())[-1]
    margins = torch.cat(last.margins) if last.margins else None
    return CollapseReport(table, int(total.sum()), classes, margins)


def _bytes(batch):
    return sum(features.nbytes for features in batch.features.values())


def _longer(batches):
    """The same samples in fewer and longer batches, which products of matrices prefer."""
    some, size = [], 0
    for k, batch in enumerate(batches):
        some.append(batch)
        size += max(features.numel() for features in batch.features.values())
        if size >= CHUNK or k + 1 == len(batches):
            features = {name: torch.cat([part.features[name] for part in some]) for name in batch.features}
            guess = None if batch.guess is None else torch.cat([part.guess for part in some])
            yield capture.Batch(features, torch.cat([part.labels for part in some]), guess)
            some, size = [], 0


def _first_pass(first, watch, num_classes):
    """Sums of each class (C, d) of each layer, with the largest absolute value beside them, and the counts (C,)."""
    sums, total = {}, None
    for batch in first():
        if watch.weight is not None:
            if num_classes not in (None, len(watch.weight)):
                raise ValueError(f"num_classes is {num_classes}, but {watch.name!r} has {len(watch.weight)} classes")
            num_classes = len(watch.weight)
        elif num_classes is None:
            raise ValueError("without a classifier the number of classes must be given: num_classes=")
        checks.classes(num_classes)
        for name, features in batch.features.items():
            h = wide(features)
            labels = batch.labels.to(h.device)
            checks.labels(labels, num_classes, h.shape[:-1])
            checks.finite(f"features of {name!r}", h)
            more, counts = metrics.class_sums(h, labels, num_classes)
            if name not in sums:
                sums[name] = torch.zeros_like(more)
            sums[name] += more
        total = counts.double() if total is None else total + counts
    missing = [total is None]
    if system.several():  # all learn of it, since they would wait for each other
        missing = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(missing, total is None)
    if any(missing):
        where = f" on processes {[k for k, none in enumerate(missing) if none]}" if len(missing) > 1 else ""
        raise ValueError(f"the loader gave no batch{where}")
    system.over_processes(*sums.values(), total)
    return sums, total


def _out_of_distribution(found, inside, watch, loader, alpha):
    """{layer: {nc5, neco_auroc, nci_auroc}}; the last where there are weights."""
    covariances = {name: layer.covariance() for name, layer in found.items()}
    sums = {name: torch.zeros_like(layer.mu) for name, layer in found.items()}
    scores = {name: {"neco": ([], []), "nci": ([], [])} for name in found}
    number = torch.zeros(2, dtype=torch.float64, device=next(iter(sums.values())).device)
    for side, batches in enumerate((inside(), watch.read(loader, labelled=False))):
        for batch in batches:
            for name, layer in found.items():
                h = wide(batch.features[name])
                checks.finite(f"features of {name!r}", h)
                if layer.has("neco"):
                    score = measures.neco(h, layer.of_samples, covariances[name], len(layer.means) - 1)
                    scores[name]["neco"][side].append(score.cpu())
                if layer.has("nci"):
                    score = measures.nci(h, layer.mu, layer.weight, batch.guess.to(h.device), alpha)
                    scores[name]["nci"][side].append(score.cpu())
                if side:
                    sums[name] += h.sum(0)
            number[side] += len(h)
    system.over_processes(number, *sums.values())
    for name, of_side in zip(("id_loader, or the loader itself,", "ood_loader"), number.tolist()):
        if not of_side:
            raise ValueError(f"{name} gave no batch")
    values = {}
    for name, layer in found.items():
        values[name] = {"nc5": measures.nc5(layer.means, sums[name] / number[1].to(sums[name].device))}
        for kind, sides in scores[name].items():
            if layer.has(kind):
                values[name][f"{kind}_auroc"] = measures.auroc(*(_gathered(side) for side in sides))
    return values


def _gathered(parts):
    """The scores of all processes."""
    mine = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)
    if not system.several():
        return mine
    shares = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(shares, mine)
    return torch.cat(shares)
