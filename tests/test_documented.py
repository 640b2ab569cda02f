"""Every public function says the types of its arguments; those of the core also what they are for, with an example that runs."""

import importlib
import inspect
from pathlib import Path

import pytest
import torch

import labkit

MODULES = ["etf", "nearest", "heads", "activations", "ufm", "optim", "metrics", "calibration", "reference", "history"]
MODULES += ["system", "_head.steps"]


def public(module):
    """{name: function or class} that a module defines for others."""
    found = {name: thing for name, thing in vars(module).items() if not name.startswith("_")}
    return {
        name: thing
        for name, thing in found.items()
        if (inspect.isfunction(thing) or inspect.isclass(thing))
        and thing.__module__ == module.__name__
        and not (inspect.isclass(thing) and issubclass(thing, torch.autograd.Function))  # called by a function that is
    }


def methods(cls):
    """{name: function} of the public methods that a class itself defines, and its constructor."""
    found = {}
    for name, thing in vars(cls).items():
        thing = thing.__func__ if isinstance(thing, (classmethod, staticmethod)) else thing
        thing = thing.fget if isinstance(thing, property) else thing
        if inspect.isfunction(thing) and (name == "__init__" or not name.startswith("_")):
            found[name] = thing
    return found


def everything(module):
    """{dotted name: function or class}, the methods of public classes among them."""
    found = {}
    for name, thing in public(module).items():
        found[name] = thing
        if inspect.isclass(thing):
            found |= {f"{name}.{method}": function for method, function in methods(thing).items()}
    return found


def without_annotation(function):
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name not in ("self", "cls")]
    return [p.name for p in parameters if p.annotation is inspect.Parameter.empty]


@pytest.fixture(params=MODULES)
def module(request):
    return importlib.import_module(f"labkit.{request.param}")


ROOMS = ("vision", "text", "report", "plots", "studies", "widgets", "course")
IN_ROOMS = [
    ".".join(path.relative_to(Path(labkit.__file__).parent).with_suffix("").parts)
    for room in ROOMS
    for path in sorted((Path(labkit.__file__).parent / room).rglob("[a-z]*.py"))
]


@pytest.mark.parametrize("name", MODULES + IN_ROOMS)
def test_arguments_are_annotated(name):
    module = importlib.import_module(f"labkit.{name}")
    functions = {name: thing for name, thing in everything(module).items() if inspect.isfunction(thing)}
    assert functions or name in IN_ROOMS, f"{module.__name__} has nothing public"
    bare = {name: left for name, function in functions.items() if (left := without_annotation(function))}
    assert bare == {}, f"arguments without a type in {module.__name__}"


def test_docstrings(module):
    """Those of methods may come from the class that they replace one of; a constructor is explained by its class."""
    missing = []
    for name, thing in everything(module).items():
        owner, _, method = name.partition(".")
        inherited = method and inspect.getdoc(getattr(getattr(module, owner), method, None))
        if method != "__init__" and not (thing.__doc__ or inherited):
            missing.append(name)
    assert missing == [], f"no docstring in {module.__name__}"


def test_examples(module):
    """Each public function and class, or a method of the class, has a `>>>`, which `make check` runs."""
    things = everything(module)
    shown = {name.split(".")[0] for name, thing in things.items() if ">>>" in (thing.__doc__ or "")}
    assert sorted(set(public(module)) - shown) == [], f"no example in {module.__name__}"
