"""collapse() on networks of several libraries: what it finds, what it leaves as it was, and what it refuses."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import labkit
from labkit import checks, heads, metrics
from labkit.report import capture, measures

N, C, D = 120, 4, 6
pytestmark = pytest.mark.filterwarnings("ignore:numerical_rank")  # left out where keep is small


def samples(n=N, seed=0, spread=0.7):
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % C
    x = torch.randn(C, 8, generator=g)[labels] + spread * torch.randn(n, 8, generator=g)
    return x.double(), labels


def loader(*tensors, size=32, **options):
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*tensors), batch_size=size, **options)


def network(seed=1):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, D), nn.Tanh(), nn.Linear(D, C)
    ).double()


@torch.no_grad()
def at_once(model, x, y):
    """The same by labkit.metrics, with every feature in memory."""
    model = model.eval()
    h, w, b = model[:-1](x).double(), model[-1].weight.double(), model[-1].bias.double()
    logits = model(x)
    means, mu = metrics.class_means(h, y, C)
    return {
        "accuracy": (logits.argmax(-1) == y).double().mean(),
        "nearest_mean_accuracy": (metrics.nearest_mean(h, means) == y).double().mean(),
        "nc1": metrics.nc1(h, y),
        "cdnv": metrics.cdnv(h, y),
        "nc2": metrics.nc2(w),
        "nc2_means": metrics.nc2(means - mu),
        "nc3": metrics.nc3(w, h, y),
        "nc4": metrics.nc4(logits, h, y),
        "nc4_bias": torch.linalg.vector_norm(w @ mu + b),
        "equinorm_means": metrics.equinorm(means - mu),
        "equinorm_weights": metrics.equinorm(w),
        "cosine_margin": metrics.cosine_margins(w, h, y).mean(),
        "smallest_margin": metrics.cosine_margins(w, h, y).min(),
    }


@pytest.mark.parametrize("keep", [1 << 30, 2000])
def test_equals_metrics(keep):
    model, (x, y) = network(), samples()
    found = labkit.collapse(model, loader(x, y), keep=keep)
    assert list(found.table.columns) == ["layer", "measure", "value", "convention"]
    assert set(found.table["layer"]) == {"before 5"} and found.samples == N and found.num_classes == C
    for name, value in at_once(model, x, y).items():
        assert found[name] == pytest.approx(value.item(), rel=1e-10, abs=1e-13), name
    with torch.no_grad():
        margins = metrics.cosine_margins(model[-1].weight, model[:-1](x), y)
    np.testing.assert_allclose(found.margins, margins, rtol=1e-9, atol=1e-12)


def test_layers_by_name():
    model, (x, y) = network().eval(), samples()
    found = labkit.collapse(model, loader(x, y), ["3", "0"])
    wide = found.wide()
    assert list(wide.columns) == ["3", "0", "before 5"]
    with torch.no_grad():
        assert wide.loc["nc1", "0"] == pytest.approx(metrics.nc1(model[:1](x), y).item(), rel=1e-9)
        assert wide.loc["nc1", "3"] == pytest.approx(metrics.nc1(model[:4](x), y).item(), rel=1e-9)
    assert found["nc1"] == wide.loc["nc1", "before 5"]
    # what needs weights is for what the classifier sees
    assert wide.loc["nc3", ["0", "3"]].isna().all() and wide.loc["accuracy", ["0", "3"]].isna().all()
    assert len(found.table) == wide.notna().sum().sum()
    with pytest.raises(KeyError, match="'nc9' was not measured; there are"):
        found["nc9"]


class ChangesInPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, C)

    def forward(self, x):
        h = x + 1
        out = self.fc(h)
        h.relu_()
        return out


def test_what_comes_next_may_work_in_place():
    x, y = samples()
    model = nn.Sequential(nn.Linear(8, D), nn.ReLU(inplace=True), nn.Linear(D, C)).double()
    found = labkit.collapse(model, loader(x, y), ["0"]).wide()
    with torch.no_grad():
        assert found.loc["nc1", "0"] == pytest.approx(metrics.nc1(model[0](x), y).item(), rel=1e-9)
        assert found.loc["nc1", "before 2"] == pytest.approx(metrics.nc1(model[0](x).relu(), y).item(), rel=1e-9)
    with pytest.raises(ValueError, match="'fc' was changed in place"):
        labkit.collapse(ChangesInPlace().double(), loader(x, y))


def test_uniformity_where_classes_outnumber_dimensions():
    x, y = samples()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 3), nn.Linear(3, C)).double()
    found = labkit.collapse(model, loader(x, y), ["0"])
    assert {"uniformity_distance", "uniformity_log", "uniformity_riesz"} <= set(found.table["measure"])
    assert "uniformity_log" not in set(labkit.collapse(network(), loader(x, y)).table["measure"])


@pytest.mark.parametrize("scale", [1e-9, 1e-20, 1e20])
def test_measures_do_not_depend_on_the_scale_of_the_features(scale):
    # cosine_similarity of torch counts lengths below 1e-8 as 1e-8, its normalize those below 1e-12
    x, y = samples()
    x, other = x[:, :3], samples(40, seed=3, spread=3.0)[0][:, :3]
    torch.manual_seed(0)
    model = nn.Linear(3, C, bias=False).double()

    def found(factor):
        outside = loader(factor * other, torch.zeros(len(other)))
        table = labkit.collapse(model, loader(factor * x, y), ood_loader=outside, nci_alpha=0.0).table
        return table.set_index("measure")["value"].drop(["uniformity_riesz", "nc4_bias"])  # of lengths, and of none

    expected, means = found(1.0), metrics.class_means(x, y, C)[0].numpy()
    mean = other.numpy().mean(0)
    cosines = means @ mean / np.linalg.norm(means, axis=1) / np.linalg.norm(mean)
    assert expected["nc5"] == pytest.approx(np.abs(cosines).mean(), rel=1e-9)
    pd.testing.assert_series_equal(found(scale), expected, rtol=1e-6)


def test_a_vector_without_a_direction_has_no_uniformity():
    vectors = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    for kernel in ("distance", "log", "riesz"):
        assert all(math.isnan(value) for value in measures.uniformity(vectors, kernel))


# --- networks of other libraries ----------------------------------------------------------------------------------


def pictures(side, n=24):
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 3
    return loader(
        torch.randn(3, 3, side, side, generator=g)[labels] + torch.randn(n, 3, side, side, generator=g), labels
    )


def test_timm_resnet18():
    import labkit.vision

    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet18", num_classes=3)
    found = labkit.collapse(model, pictures(32), ["layer1", "layer2", "layer3", "layer4"])
    assert list(found.wide().columns) == ["layer1", "layer2", "layer3", "layer4", "before fc"]
    # the network averages its last maps as we do
    assert found.wide().loc["nc1", "layer4"] == pytest.approx(found["nc1"], rel=1e-4)


def test_torchvision_resnet18():
    import labkit.vision

    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.resnet18(num_classes=3)
    found = labkit.collapse(model, pictures(32))
    assert set(found.table["layer"]) == {"before fc"} and found.margins.shape == (24,)


def test_timm_vit_tiny():
    import labkit.vision

    timm = pytest.importorskip("timm")
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=3)
    found = labkit.collapse(model, pictures(32), ["blocks.3", "blocks.11"])
    assert list(found.wide().columns) == ["blocks.3", "blocks.11", "before head"]
    assert found.table["value"].notna().all()


def test_plain_sequential():
    x, y = samples()
    model = nn.Sequential(nn.Linear(8, D), nn.ReLU(), nn.Linear(D, C)).double()
    assert 0 <= labkit.collapse(model, loader(x, y))["nc4"] <= 1


def test_head_of_labkit_is_measured_on_its_sphere():
    (x, y), head = samples(), heads.ImplicitETFHead(8, C).double()
    head(x, y)
    model = nn.Sequential(nn.Identity(), head)
    found = labkit.collapse(model, loader(x, y), classifier=head)
    h = head.normalize(x).double()
    assert found["nc1"] == pytest.approx(metrics.nc1(h, y).item(), rel=1e-9)
    assert found["nc3"] == pytest.approx(metrics.nc3(head.weight, h, y).item(), rel=1e-6)
    assert set(found.table["layer"]) == {"before 1"}


def test_a_head_of_labkit_need_not_be_named():
    """A projection before it is not taken for the classifier."""
    x, y = samples()
    model = nn.Sequential(nn.Linear(8, C), nn.ReLU(), heads.FixedETFHead(C, C)).double()
    found = labkit.collapse(model, loader(x, y))
    assert set(found.table["layer"]) == {"before 2"}
    assert found["accuracy"] == (model(x).argmax(-1) == y).double().mean()


def test_a_bias_of_the_last_batch_is_not_measured():
    x, y = samples()
    model = nn.Sequential(nn.Linear(8, D), heads.FixedETFHead(D, C, bias="batch_mean")).double()
    assert np.isnan(labkit.collapse(model, loader(x, y))["nc4_bias"])


def test_under_inference_mode():
    (x, y), model = samples(), network()
    with torch.inference_mode():
        inside = labkit.collapse(model, loader(x, y))
    assert inside["nc1"] == labkit.collapse(model, loader(x, y))["nc1"]


# --- dtypes and kinds of input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_dtype_is_summed_in_float64(dtype):
    model, (x, y) = network().to(dtype), samples()
    with torch.no_grad():
        h = model.eval()[:-1](x.to(dtype)).double()
    found = labkit.collapse(model, loader(x.to(dtype), y), keep=0 if dtype != torch.float16 else 1 << 30)
    assert found["nc1"] == pytest.approx(metrics.nc1(h, y).item(), rel=1e-10)


class Dictionary(nn.Module):
    """Takes keywords and gives a mapping, as networks for text do."""

    def __init__(self, model):
        super().__init__()
        self.inner = model

    def forward(self, pixel_values, scale=None):
        return {"logits": self.inner(pixel_values)}


def test_mappings_and_tuples():
    model, (x, y) = network(), samples()
    plain = labkit.collapse(model, loader(x, y))["nc1"]
    batches = [{"pixel_values": a, "labels": b} for a, b in loader(x, y)]
    assert labkit.collapse(Dictionary(model), batches)["nc1"] == pytest.approx(plain)
    assert labkit.collapse(Dictionary(model), [((a,), b) for a, b in loader(x, y)])["nc1"] == pytest.approx(plain)
    with pytest.raises(TypeError, match="a mapping with 'labels' among its keys; got a mapping of"):
        labkit.collapse(Dictionary(model), [{"pixel_values": x}])
    with pytest.raises(TypeError, match="got a Tensor"):
        labkit.collapse(model, [x])


def test_a_shuffled_loader_is_as_good():
    model, (x, y) = network(), samples()
    found = labkit.collapse(model, loader(x, y, shuffle=True), keep=0)
    assert found["nc1"] == pytest.approx(labkit.collapse(model, loader(x, y))["nc1"], rel=1e-9)


def test_compiled_models():
    model, (x, y) = network(), samples()
    compiled = torch.compile(model, backend="eager")
    assert labkit.collapse(compiled, loader(x, y))["nc1"] == labkit.collapse(model, loader(x, y))["nc1"]


# --- the model is left as it was ----------------------------------------------------------------------------------


def state(model):
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    return [m.training for m in model.modules()], hooks, grads, [v.clone() for v in model.state_dict().values()]


def same(a, b):
    assert a[:2] == b[:2]
    for x, y in zip(a[2] + a[3], b[2] + b[3]):
        assert x is y is None or torch.equal(x, y)


def fail_in_the_middle(loader):
    yield from list(loader)[:2]
    raise RuntimeError("the disk is gone")


@pytest.mark.parametrize("broken", ["no", "loader", "model", "labels", "features"])
def test_the_model_is_left_as_it_was(broken):
    model, (x, y) = network(), samples()
    model.train()
    model[1].eval()
    model[3].weight.requires_grad_(False)
    nn.functional.cross_entropy(model(x), y).backward()
    before, grad = state(model), torch.is_grad_enabled()
    batches = {
        "no": loader(x, y),
        "loader": fail_in_the_middle(loader(x, y)),
        "model": [(x[:5], y[:5]), (x[:5, :2], y[:5])],
        "labels": loader(x, y + 1),
        "features": loader(x / 0, y),
    }[broken]
    if broken == "no":
        labkit.collapse(model, batches, ["2"])
    else:
        with pytest.raises((RuntimeError, ValueError)):
            labkit.collapse(model, batches, ["2"])
    same(state(model), before)
    assert torch.is_grad_enabled() == grad and model[0].weight.requires_grad and not model[3].weight.requires_grad


# --- what is refused ----------------------------------------------------------------------------------------------


def test_refused():
    model, (x, y) = network(), samples()
    with pytest.raises(ValueError, match="no nn.Linear or head of labkit ran in the forward pass of this Sequential"):
        labkit.collapse(nn.Sequential(nn.Identity()), loader(x, y))
    with pytest.raises(ValueError, match="the model has no layer 'layer4'; the first that it has: '"):
        labkit.collapse(model, loader(x, y), ["layer4"])
    with pytest.raises(ValueError, match="has no layer 'hea'; close to it: 'head'"):
        labkit.collapse(nn.ModuleDict({"head": nn.Linear(8, C)}), loader(x, y), classifier="hea")
    with pytest.raises(ValueError, match="a Linear, is not a module of the model"):
        labkit.collapse(model, loader(x, y), classifier=nn.Linear(2, 2))
    with pytest.raises(ValueError, match="must have a weight of shape"):
        labkit.collapse(model, loader(x, y), classifier="2")
    with pytest.raises(ValueError, match="num_classes is 9, but '5' has 4 classes"):
        labkit.collapse(model, loader(x, y), num_classes=9)
    with pytest.raises(ValueError, match=r"classes \[3\] of 4 have none"):
        labkit.collapse(model, loader(x[y < 3], y[y < 3]))
    with pytest.raises(ValueError, match="labels must lie in 0 … 3"):
        labkit.collapse(model, loader(x, y + 1))
    with pytest.raises(checks.NotFinite, match="features of 'before 5' must be finite"):
        labkit.collapse(model, loader(x / 0, y))
    with pytest.raises(ValueError, match="the loader gave no batch"):
        labkit.collapse(model, [])
    with pytest.raises(ValueError, match="centre must be one of"):
        labkit.collapse(model, loader(x, y), centre="median")
    with pytest.raises(ValueError, match="the number of classes must be given"):
        labkit.collapse(nn.Sequential(nn.Identity()), loader(x, y), ["0"])
    found = labkit.collapse(nn.Sequential(nn.Identity()), loader(x, y), ["0"], num_classes=C)
    assert found["nc1"] == pytest.approx(metrics.nc1(x, y).item(), rel=1e-9) and "nc4" not in set(
        found.table["measure"]
    )


class Reused(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.act, self.b, self.idle = nn.Linear(8, D), nn.ReLU(), nn.Linear(D, C), nn.Linear(2, 2)

    def forward(self, x):
        return self.act(self.b(self.act(self.a(x))))


def test_a_classifier_of_other_classes_than_the_model_returns_is_named(recwarn):
    """A scorer that is no nn.Linear, behind one: its input is no feature that is classified."""
    torch.manual_seed(0)
    inputs, labels = torch.randn(12, 5), torch.arange(12) % 3
    model = nn.Sequential(nn.Linear(5, 4), nn.Unflatten(1, (4, 1)), nn.Conv1d(4, 3, 1), nn.Flatten())
    with pytest.warns(UserWarning, match=r"'0', the last .* nothing of its 4 classes \(shapes: \(12, 3\)\)"):
        with pytest.raises(ValueError, match="every class needs a sample"):  # the fourth
            labkit.collapse(model, [(inputs, labels)])

    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(5, 3)

        def forward(self, x):
            return {"loss": x.sum(), "logits": (x, self.fc(x))}

    for fine in (Several(), nn.Sequential(nn.Linear(5, 3), nn.LogSoftmax(-1))):
        labkit.collapse(fine, [(inputs, labels)])
    assert not recwarn.list


def test_layers_that_run_twice_or_never_are_refused():
    model, (x, y) = Reused().double(), samples()
    with pytest.raises(ValueError, match="layer 'act' ran more than once"):
        labkit.collapse(model, loader(x, y), ["act"])
    with pytest.raises(ValueError, match="did not run in the forward pass: 'idle'"):
        labkit.collapse(model, loader(x, y), ["idle"])
    with pytest.raises(ValueError, match="the classifier 'idle' did not run"):
        labkit.collapse(model, loader(x, y), ["a"], classifier="idle")
    assert set(labkit.collapse(model, loader(x, y)).table["layer"]) == {"before b"}
    model.forward = lambda x: model.b(model.act(model.a(x))) + model.b(model.act(model.a(x.flip(-1))))
    with pytest.raises(ValueError, match="the classifier 'b' ran more than once"):
        labkit.collapse(model, loader(x, y))


def test_other_samples_in_the_second_pass_are_refused():
    model, (x, y) = network(), samples(1200)

    class Moving:
        def __iter__(self):
            return iter(loader(x + 0.1 * torch.randn_like(x), y))

    with pytest.raises(ValueError, match="without random augmentation"):
        labkit.collapse(model, Moving(), keep=0)
    once = iter(loader(x, y))  # a generator is empty when it is read again
    with pytest.raises(ValueError, match="gave 0 samples in its second pass after 1200"):
        labkit.collapse(model, once, keep=0)


def test_single_samples_have_no_spread():
    x = torch.randn(C, 8).double()
    with pytest.warns(UserWarning, match="no spread"):
        found = labkit.collapse(network(), loader(x, torch.arange(C)))
    assert all(math.isnan(found[name]) for name in ("nc1", "nc1_svd", "nc1_quotient", "cdnv"))


def test_pooling():
    assert torch.equal(capture.pooled(torch.arange(8.0).reshape(1, 2, 2, 2)), torch.tensor([[1.5, 5.5]]))
    assert torch.equal(capture.pooled(torch.arange(4.0).reshape(1, 2, 2)), torch.tensor([[1.0, 2.0]]))
    with pytest.raises(ValueError, match="give pool= a function"):
        capture.pooled(torch.ones(3))
    model = nn.Sequential(nn.Unflatten(1, (2, 4)), nn.Flatten(), nn.Linear(8, C)).double()
    x, y = samples()
    found = labkit.collapse(model, loader(x, y), ["0"], pool=lambda t: t[:, 0])
    assert found.wide().loc["nc1", "0"] == pytest.approx(metrics.nc1(x[:, :4], y).item(), rel=1e-9)


# --- out of distribution ------------------------------------------------------------------------------------------


def test_out_of_distribution_scores_against_scikit_learn():
    pytest.importorskip("torchmetrics")
    from sklearn.decomposition import PCA
    from sklearn.metrics import roc_auc_score
    from sklearn.preprocessing import StandardScaler

    model, (x, y) = network().eval(), samples()
    held, _ = samples(60, seed=5)
    other = 2 * torch.randn(80, 8, generator=torch.Generator().manual_seed(3)).double()
    found = labkit.collapse(model, loader(x, y), ood_loader=loader(other), id_loader=loader(held), keep=0)
    with torch.no_grad():
        h, inside, outside = (model[:-1](t).double() for t in (x, held, other))
        guesses = [model(t).argmax(-1) for t in (held, other)]
    scaler = StandardScaler().fit(h)
    pca = PCA(C - 1).fit(scaler.transform(h))

    def neco(t):
        t = scaler.transform(t)
        return np.linalg.norm(pca.transform(t), axis=1) / np.linalg.norm(t, axis=1)

    def nci(t, guess):
        centred = t - h.mean(0)
        chosen = model[-1].weight.double().detach()[guess]
        return (centred * chosen).sum(1) / centred.norm(dim=1) + 1e-3 * t.abs().sum(1)

    truth = np.r_[np.ones(60), np.zeros(80)]
    assert found["neco_auroc"] == pytest.approx(roc_auc_score(truth, np.r_[neco(inside), neco(outside)]), abs=1e-6)
    scores = np.r_[nci(inside, guesses[0]), nci(outside, guesses[1])]
    assert found["nci_auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-6)
    mean = outside.mean(0)
    means = metrics.class_means(h, y, C)[0]
    assert found["nc5"] == pytest.approx(torch.cosine_similarity(means, mean[None]).abs().mean().item(), rel=1e-9)
    with pytest.raises(ValueError, match="ood_loader gave no batch"):
        labkit.collapse(model, loader(x, y), ood_loader=[])
    with pytest.raises(ValueError, match="id_loader, or the loader itself, gave no batch"):
        labkit.collapse(model, loader(x, y), ood_loader=loader(other), id_loader=[])


def test_auroc_of_large_and_tied_scores():
    pytest.importorskip("torchmetrics")
    from sklearn.metrics import roc_auc_score

    g = torch.Generator().manual_seed(0)
    inside, outside = (torch.randint(400, 440, (50,), generator=g) + shift for shift in (5, 0))
    truth = np.r_[np.ones(50), np.zeros(50)]
    assert measures.auroc(inside, outside) == pytest.approx(roc_auc_score(truth, np.r_[inside, outside]), abs=1e-6)


# --- the figure ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [None, ["0", "3"]])
def test_figure(layers):
    model, (x, y) = network(), samples()
    found = labkit.collapse(model, loader(x, y), layers)
    figure = found.figure("a title")
    assert "a title" in figure.layout.title.text
    drawn = {trace.name: trace for trace in figure.data}
    trace = drawn["NC1"]
    np.testing.assert_allclose(trace.y, found.wide().loc["nc1"], rtol=1e-6)
    assert list(trace.x) == (["NC1"] if layers is None else ["0", "3", "before 5"])
    assert len({(t.marker.color, t.marker.symbol, t.xaxis) for t in figure.data}) == len(figure.data)
    titles = {a.text for a in figure.layout.annotations}
    assert {"cosine margin", "decisions"} <= titles and "out of distribution" not in titles
    assert "<table" in found._repr_html_()


def test_nothing_is_said_of_the_torch_before_it_is_needed():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(labkit.collapse(network(), loader(*samples())).table, pd.DataFrame)
    assert "collapse" in dir(labkit)
    with pytest.raises(AttributeError, match="no attribute 'collapses'"):
        labkit.collapses  # noqa: B018
