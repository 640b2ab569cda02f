"""The two parts of the gradient, against plain autograd through an SVD, and the study of training with one or both."""

import copy
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from labkit import etf, nearest
from labkit.heads import FixedETFHead, ImplicitETFHead, LinearHead
from labkit.history import History, plain
from labkit.studies.ufms import ddn as module
from labkit.studies.ufms.ddn import WITH, WITHOUT, Runs, influence, load_study, study, train_both
from labkit.ufm import UFM, UFM_10, Trainer, train_ufm

SMALL = UFM(4, 30, 8, 3.0)


def features_of(spec, seed=0):
    return torch.randn(spec.num_samples, spec.dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive(spec, z, temperature=5.0, delta=1e-3):
    """Loss of the whole composition by plain operations, with U by SVD; z and U are leaves of the graph. First step, α
    = 1.
    """
    y, C = spec.targets(), spec.num_classes
    h = temperature * z / z.norm(dim=1, keepdim=True)
    mean = h.mean(0)
    means = torch.stack([h[y == c].mean(0) for c in range(C)], 1) - mean.unsqueeze(1)
    means = means / means.norm()
    prox = nearest.start_frame(means.detach())
    p = torch.eye(C, dtype=z.dtype) - 1 / C
    left, _, right = torch.linalg.svd(2 / math.sqrt(C - 1) * means @ p + delta * prox, full_matrices=False)
    u = left @ right
    return u, lambda u: F.cross_entropy((h - mean) @ (math.sqrt(C / (C - 1)) * u @ p), y)


@pytest.mark.parametrize("spec", [SMALL, UFM(4, 30, 8), UFM(10, 60, 16, 10.0), UFM(2, 9, 5)])
def test_both_parts_are_those_of_autograd(spec):
    z = features_of(spec).requires_grad_()
    found = influence(ImplicitETFHead(spec.dim, spec.num_classes), z, spec.targets())
    u, loss = naive(spec, z)
    (whole,) = torch.autograd.grad(loss(u), z, retain_graph=True)
    constant = u.detach().requires_grad_()
    direct, through_frame = torch.autograd.grad(loss(constant), (z, constant))
    # U* of the head passes through its float32 buffer
    torch.testing.assert_close(found.direct, direct, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.indirect, whole - direct, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.through_frame, through_frame, rtol=1e-5, atol=1e-6)
    assert found.ratio.item() == pytest.approx(((whole - direct).norm() / direct.norm()).item(), rel=1e-4)
    cosine = F.cosine_similarity((whole - direct).flatten(), direct.flatten(), dim=0)
    assert found.cosine.item() == pytest.approx(cosine.item(), abs=1e-4)


def test_tangent_share_is_a_projection():
    # The normal space of the orthonormal frames at U is {U S: S symmetric}; what a least-squares fit by it leaves is
    # tangent.
    head = ImplicitETFHead(8, 4)
    found = influence(head, features_of(SMALL), SMALL.targets())
    head(features_of(SMALL), SMALL.targets())
    u, y = head.frame.double(), found.through_frame
    basis = []
    for i in range(4):
        for j in range(i + 1):
            s = torch.zeros(4, 4, dtype=torch.float64)
            s[i, j] = s[j, i] = 1
            basis.append((u @ s).flatten())
    basis = torch.stack(basis, 1)
    fit = basis @ torch.linalg.lstsq(basis, y.flatten()).solution
    assert found.tangent_share.item() == pytest.approx(((y.flatten() - fit).norm() / y.norm()).item(), rel=1e-5)


def test_no_torque():
    # Turning all features turns U* with them and leaves the loss as it is, but for δ: the whole gradient has no torque.
    z = features_of(SMALL)
    found = influence(ImplicitETFHead(8, 4, delta=1e-7), z, SMALL.targets())

    def torque(g):
        return (g.mT @ z - z.mT @ g).norm()

    assert torque(found.direct + found.indirect) < 1e-5 * torque(found.direct)


@pytest.mark.parametrize("clustered, low, high", [(False, 0.07, 0.09), (True, 0.0, 0.03)])
def test_ufm_10_has_little(clustered, low, high):
    y, z = UFM_10.targets(), features_of(UFM_10)
    if clustered:
        z = features_of(UFM(10, 10, 512), seed=1)[y] + 0.5 * z
    found = influence(ImplicitETFHead(512, 10), z, y)
    assert low < found.ratio.item() < high and abs(found.cosine.item()) < 0.04 and found.tangent_share.item() < 0.1


def test_imbalance_and_few_samples_have_more():
    def ratio(spec):
        return np.mean(
            [influence(ImplicitETFHead(16, 10), features_of(spec, s), spec.targets()).ratio.item() for s in range(5)]
        )

    assert ratio(UFM(10, 60, 16)) > 0.3 and ratio(UFM(10, 1000, 16, 100.0)) > ratio(UFM(10, 1000, 16))


def test_runs_side_by_side_are_independent():
    trainer = Trainer(SMALL, "implicit", [0, 1, 2], batch_size=12)
    for _ in range(3):
        trainer.step()
    features, targets = trainer.batch()
    together = influence(trainer.head, features, targets)
    for s in range(3):
        alone = Trainer(SMALL, "implicit", [s], batch_size=12)
        for _ in range(3):
            alone.step()
        single = influence(alone.head, *alone.batch())
        for name in ("ratio", "cosine", "tangent_share"):
            assert getattr(together, name)[s].item() == pytest.approx(getattr(single, name).item(), rel=1e-2, abs=1e-4)


@pytest.mark.parametrize("through", [True, False])
def test_the_head_does_not_move(through):
    head = ImplicitETFHead(8, 4, backprop_through_etf=through).eval()
    before = copy.deepcopy(head.state_dict())
    first, second = (influence(head, features_of(SMALL), SMALL.targets()) for _ in range(2))
    assert all(torch.equal(before[name], value) for name, value in head.state_dict().items())
    assert not head.training and head.backprop_through_etf == through
    assert torch.equal(first.ratio, second.ratio) and first.ratio > 0


@pytest.mark.parametrize("head", [LinearHead(8, 4), FixedETFHead(8, 4)])
def test_other_heads_are_refused(head):
    with pytest.raises(TypeError, match=f"ImplicitETFHead .* got {type(head).__name__}"):
        influence(head, features_of(SMALL), SMALL.targets())


# Training with and without


@pytest.mark.parametrize("batch_size, alpha", [(None, None), (12, 1.0)])
def test_both_trainings_are_those_of_train_ufm(batch_size, alpha):
    history = train_both(SMALL, 20, [0, 3], batch_size, alpha)
    for name, through in ((WITH, True), (WITHOUT, False)):
        alone = train_ufm(
            SMALL, "implicit", 20, [0, 3], batch_size=batch_size, alpha=alpha, backprop_through_etf=through
        )
        mine = history.final().set_index(["head", "seed"]).loc[name]
        np.testing.assert_allclose(mine["loss"], alone.final()["loss"], rtol=1e-4)
        assert len(history.margins.query("head == @name")) == 2 * SMALL.num_samples
    starts = history.frame[history.frame["iteration"] == 0].pivot(
        index="seed", columns="head", values=["loss", "ratio"]
    )
    assert (starts["loss"][WITH] == starts["loss"][WITHOUT]).all() and (
        starts["ratio"][WITH] == starts["ratio"][WITHOUT]
    ).all()


def test_ratio_is_that_of_the_next_step():
    frame = train_both(SMALL, 3, [1], batch_size=12, log_at=[2]).frame.set_index(["head", "iteration"])
    trainer = Trainer(SMALL, "implicit", [1], batch_size=12)
    trainer.step(), trainer.step()
    found = influence(trainer.head, *trainer.batch())
    assert frame.loc[(WITH, 2), "ratio"] == pytest.approx(found.ratio.item(), rel=1e-6)


def test_a_study_is_kept_and_taken_up_again(tmp_path, monkeypatch, capsys):
    settings = [(SMALL, None, None), (SMALL, 12, 0.1), (UFM(4, 30, 8), 12, None)]
    study(tmp_path, settings[:2], iterations=4, seeds=[0, 1], progress=True)
    assert "2 of 2: 30x8-imbalance-3-batch-12-alpha-0.1-iterations-4-seeds-0-1-num_classes-4" in capsys.readouterr().out
    ran = []
    monkeypatch.setattr(
        module, "train_both", lambda spec, *rest, **more: ran.append(spec) or train_both(spec, *rest, **more)
    )
    study(tmp_path, settings, iterations=4, seeds=[0, 1])
    assert ran == [settings[2][0]]  # the finished ones were left alone
    table = load_study(tmp_path)
    assert set(zip(table["imbalance"], table["batch_size"], table["alpha"])) == {
        (3.0, 30, 0.0),
        (3.0, 12, 0.1),
        (1.0, 12, 0.0),
    }
    assert set(table["head"]) == {WITH, WITHOUT} and set(table["seed"]) == {0, 1} and table["iteration"].max() == 4


def test_a_study_with_other_iterations_and_seeds_is_made_anew(tmp_path):
    # it returned the old runs: only whether a file was there counted
    settings = [(UFM(10, 60, 16), None, None)]
    study(tmp_path, settings, iterations=2, seeds=[0])
    study(tmp_path, settings, iterations=3, seeds=[0, 1])
    files = [History.load(path).frame for path in sorted(tmp_path.iterdir())]
    assert [(frame["iteration"].max(), set(frame["seed"])) for frame in files] == [(2, {0}), (3, {0, 1})]
    # and where the names are the same, the settings inside decide
    usual = Runs(tmp_path).path(
        plain(dict(spec=settings[0][0], batch_size=None, alpha=None, iterations=2000, seeds=[0, 1, 2, 3, 4]))
    )
    sorted(tmp_path.iterdir())[0].rename(usual)
    with pytest.warns(
        UserWarning, match="alpha-schedule.parquet was made with other settings .*iterations is 2 there, 2000 here"
    ):
        assert (
            Runs(tmp_path).get(
                dict(spec=settings[0][0], batch_size=None, alpha=None, iterations=2000, seeds=[0, 1, 2, 3, 4])
            )
            is None
        )


def test_no_study(tmp_path):
    with pytest.raises(FileNotFoundError, match="no runs named"):
        load_study(tmp_path)


def test_tail_accuracy_is_that_of_the_smallest_class():
    trainer = Trainer(SMALL, "implicit", [0])
    _, logits = trainer.present()
    tail = SMALL.targets() == 3
    expected = (logits[0].argmax(-1)[tail] == 3).double().mean().item()
    frame = train_both(SMALL, 0, [0]).frame
    assert frame["tail_accuracy"].tolist() == pytest.approx([expected, expected])
    assert etf.cosine_margin_bound(4) >= frame["cosine_margin"].max()


def made_up(gaps, imbalance=1.0, nc1=0.5):
    """A study of one setting whose loss with the gradient is 1 + gap times that without it, at each seed."""
    rows = []
    for seed, gap in enumerate(gaps):
        for t in (0, 10):
            for head, loss, size in ((WITH, 2 * (1 + gap), nc1), (WITHOUT, 2.0, 1.0)):
                here = dict(num_samples=60, dim=16, imbalance=imbalance, batch_size=12, alpha=1.0, seed=seed)
                value = loss if t else 5.0 * loss
                rows.append(here | dict(iteration=t, head=head, loss=value, nc1=size, tail_accuracy=1.0))
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    "gaps, counts, verdict",
    [
        ([-0.01, -0.02, -0.001], (3, 0, 0), "better"),
        ([0.01, 0.02, 0.001], (0, 3, 0), "worse"),
        ([-0.01, 0.02, -0.001], (2, 1, 0), "either way"),
        ([1e-7, -1e-7, 0.0], (0, 0, 3), "tie"),
        ([-0.01, -0.02, 1e-7], (2, 0, 1), "either way"),
    ],
)
def test_ends_are_judged_seed_by_seed(gaps, counts, verdict):
    row = module.ends(made_up(gaps)).iloc[0]
    assert tuple(row[["better", "worse", "tie"]]) == counts and row["verdict"] == verdict and row["seeds"] == 3
    assert row["percent"] == pytest.approx(100 * sorted(gaps)[1], abs=1e-9) and row["nc1"] == 0.5


@pytest.mark.parametrize("gaps", [[math.nan] * 3, [1e-7, 0.0, math.nan], [-0.01, -0.02, math.nan]])
def test_a_missing_loss_tells_nothing(gaps):
    assert module.ends(made_up(gaps))["verdict"].tolist() == ["cannot be told"]


def test_ends_has_a_row_for_each_setting():
    both = pd.concat([made_up([0.1, 0.2], 10.0), made_up([-0.1, -0.2])])
    assert module.ends(both)[["imbalance", "verdict"]].values.tolist() == [[1.0, "better"], [10.0, "worse"]]


def test_the_stored_study_is_whole():
    found = module.ends(load_study(Path(__file__).resolve().parents[3] / "data/results/ddn"))
    assert len(found) == len(module.STUDY) and (found["seeds"] == 5).all()
    assert "−0.061 (−0.103 to −0.043)" in module.shown(found)["loss with it over without it, %"].tolist()
