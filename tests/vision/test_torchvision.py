"""Torchvision imports beside any build of torch, and labkit imports without it."""

import os
import subprocess
import sys

import pytest

# torchvision as far as its import is concerned: a library that does not load, and then a reference to its operators.
NEEDS_OPERATORS = """
import torch
from . import extension
for name in ("nms", "qnms"):
    torch.library.register_fake("torchvision::" + name)(lambda dets, scores, iou_threshold: None)
"""


def python(code, path=None):
    """Run code in a new process, with `path` before everything else; returns what it prints."""
    env = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture
def stand_in(tmp_path):
    """Make a package `torchvision` with this __init__.py; returns the folder it is in."""

    def create(code):
        package = tmp_path / "torchvision"
        package.mkdir()
        (package / "__init__.py").write_text(code)
        (package / "extension.py").write_text("")
        return tmp_path

    return create


def test_torchvision_and_timm_import():
    code = """
import labkit.vision
import torch, torchvision.datasets, torchvision.transforms.v2 as v2, timm
print(tuple(v2.Resize(8)(torch.zeros(3, 16, 16)).shape)[-1])
"""
    assert python(code) == ["8"]


def test_operators_are_declared_where_the_import_would_fail(stand_in):
    code = """
import torch
try:
    import torchvision
except RuntimeError as error:
    assert "operator torchvision::nms does not exist" in str(error)
    print("fails")
import labkit.vision
print(labkit.vision.torchvision.__name__, hasattr(torch.ops.torchvision, "nms"))
"""
    assert python(code, stand_in(NEEDS_OPERATORS)) == ["fails", "torchvision", "True"]


def test_nothing_is_declared_where_the_import_works(stand_in):
    code = """
import torch
import labkit.vision
print(labkit.vision.torchvision.__name__, hasattr(torch.ops.torchvision, "nms"))
"""
    assert python(code, stand_in("")) == ["torchvision", "False"]


def test_other_failures_are_passed_on(stand_in):
    code = """
try:
    import labkit.vision
except RuntimeError as error:
    print(error)
"""
    assert python(code, stand_in("raise RuntimeError('broken')")) == ["broken"]


def test_labkit_its_heads_and_explorers_of_vectors_import_neither_timm_nor_torchvision():
    code = """
import sys
import labkit
assert "torch" not in sys.modules
import labkit.heads, labkit.metrics, labkit.optim, labkit.ufm
from labkit import plots, widgets  # a widget brings what it needs, when it is asked for
assert "ETFExplorer" in dir(widgets.etf) and widgets.ufm and widgets.language
print([name for name in ("timm", "torchvision") if name in sys.modules])
"""
    assert python(code) == ["[]"]
