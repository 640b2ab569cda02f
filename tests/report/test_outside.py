"""Reports against numbers of rhubarbwu/neural-collapse and tding1/Neural-Collapse (see ../outside/README.md)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import labkit
import labkit.vision
from labkit.report import measures

OUTSIDE = Path(__file__).parent.parent / "outside"
FILES = pytest.mark.parametrize("file", ["balanced", "imbalanced", "near-collapse", "wide-classes", "tight"])
CENTRES = {"u": "classes", "w": "samples"}


def numbers(file):
    with np.load(OUTSIDE / f"nc-metrics-{file}.npz") as kept:
        return {name: torch.from_numpy(kept[name]) for name in kept.files if kept[name].dtype.kind in "fi"}


def classifier(z, bias=True):
    """Identity and a linear classifier with the weights of the file."""
    linear = nn.Linear(*z["W"].shape[::-1]).double()
    linear.weight.data, linear.bias.data = z["W"].double(), z["b"].double() * bias
    return nn.Sequential(nn.Identity(), linear)


def loader(features, *labels):
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(features, *labels), batch_size=37)


def expected(z, suffix):
    """{measure: number of theirs}"""
    found = {
        "nc1": z[f"rh_nc1_pinv_{suffix}"],
        "nc1_svd": z[f"rh_nc1_svd_{suffix}"],
        "nc1_quotient": z[f"rh_nc1_quotient_{suffix}"],
        "cdnv": z["rh_cdnv"],
        "nc2_means": z[f"rh_nc2_etf_err_{suffix}"],
        "nc2": z["td_nc2"],
        "nc3": z[f"rh_nc3_dual_err_{suffix}"],
        "equinorm_weights": z["gnc_equinorm_W"],
    }
    if len(z["W"]) > z["W"].shape[1]:
        for ours, theirs in (("distance", "dist"), ("log", "log"), ("riesz", "riesz")):
            found[f"uniformity_{ours}"] = z[f"rh_nc2g_{theirs}_avg_var_{suffix}"][0]
        cosines = z[f"rh_nc2_interference_unit_{suffix}"].clone().fill_diagonal_(-2)
        found["minimal_margin_means"] = 1 - cosines.max()
    if suffix == "w":
        found |= {"nc3": z["td_nc3"], "nc4_bias": z["td_nc4"], "equinorm_means": z["gnc_equinorm_H"]}
    return {name: value.item() for name, value in found.items() if not value.isnan()}


def close(found, wanted):
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=1e-6, abs=1e-13), name


@FILES
@pytest.mark.parametrize("suffix", CENTRES)
@pytest.mark.parametrize("keep", [1 << 30, 0], ids=["kept", "read twice"])
def test_reports(file, suffix, keep):
    z = numbers(file)
    ignored = pytest.warns(UserWarning, match="numerical_rank") if keep == 0 else pytest.MonkeyPatch.context()
    with ignored:
        found = labkit.collapse(classifier(z), loader(z["features"], z["labels"]), centre=CENTRES[suffix], keep=keep)
    close(found, expected(z, suffix))
    assert found["accuracy"] == pytest.approx(z["td_acc1"].item() / 100, abs=1e-6)
    assert found["nc4"] == pytest.approx(z["gnc_ncc_mismatch"].item(), abs=1e-12)
    if keep:
        assert found["numerical_rank"] == pytest.approx(z["gnc_numerical_rank"].item(), rel=1e-6)
    if suffix == "w":
        np.testing.assert_allclose(found.margins.sort().values, z["gnc_margins_sorted"], rtol=1e-6, atol=1e-12)
        assert found["cosine_margin"] == pytest.approx(z["gnc_margin_mean"].item(), rel=1e-6)
        assert found["smallest_margin"] == pytest.approx(z["gnc_margins_sorted"][0].item(), rel=1e-6)


@FILES
@pytest.mark.parametrize("suffix", CENTRES)
def test_one_pass(file, suffix):
    z = numbers(file)
    metric = labkit.NeuralCollapse(len(z["W"]), CENTRES[suffix])
    for features, labels in loader(z["features"], z["labels"]):
        metric.update(features, labels)
    found = metric.compute(z["W"], z["b"])
    close({name: value.item() for name, value in found.items()}, expected(z, suffix))
    unbiased = metric.compute(z["W"])
    if suffix == "w":
        assert unbiased["nc4_bias"].item() == pytest.approx(z["td_nc4_no_bias"].item(), rel=1e-6)
    assert sorted(found) == sorted(measures.of_one_pass(len(z["W"]), z["W"].shape[1], True))
    assert set(found) < set(measures.MEASURES)


@FILES
def test_nc4_without_bias_and_nc5(file):
    z = numbers(file)
    pytest.importorskip("torchmetrics")
    model = classifier(z, bias=False)
    found = labkit.collapse(model, loader(z["features"], z["labels"]), ood_loader=loader(z["ood_features"].double()))
    assert 1 - found["nc4"] == pytest.approx(z["rh_nc4_agree"].item(), abs=1e-9)
    assert found["nc5"] == pytest.approx(z["rh_nc5_ood_dev"].item(), rel=1e-6)


@FILES
@pytest.mark.parametrize("kernel, name", [("distance", "dist"), ("log", "log"), ("riesz", "riesz")])
def test_uniformity_with_its_variance(file, kernel, name):
    z = numbers(file)
    means = torch.stack([z["features"][z["labels"] == c].mean(0) for c in range(len(z["W"]))])
    found = torch.stack(measures.uniformity(means - means.mean(0), kernel))
    np.testing.assert_allclose(found, z[f"rh_nc2g_{name}_avg_var_u"], rtol=1e-6, atol=1e-13)
