"""Features out of any network: hooks that are gone afterwards, and modes that are as before, whatever happens."""

import difflib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from labkit import heads

KINDS = (nn.Linear, heads.Head)  # of which the last to run is taken for the classifier


class Batch(NamedTuple):
    """What a network made of a batch of n samples."""

    features: dict[str, Tensor]  # of each layer, (n, d)
    labels: Tensor | None  # (n,)
    guess: Tensor | None  # the class that the classifier predicts, (n,); None without a classifier


def pooled(output: Tensor) -> Tensor:
    """One vector for each sample, (n, d): maps (n, d, height, width) or (n, d, depth, height, width) are averaged over
    their places, tokens (n, tokens, d) over the tokens, and (n, d) is left as it is.

    >>> pooled(torch.ones(5, 3, 8, 8)).shape, pooled(torch.ones(5, 17, 3)).shape
    (torch.Size([5, 3]), torch.Size([5, 3]))
    """
    if output.ndim in (4, 5):
        return output.flatten(2).mean(-1)
    if output.ndim == 3:
        return output.mean(1)
    if output.ndim == 2:
        return output
    raise ValueError(f"features of shape {tuple(output.shape)} are no vectors, tokens or maps; give pool= a function")


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode and without gradients; afterwards each of its modules is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


class Watch:
    """Reads batches through a model and keeps the outputs of layers and the input of the classifier.

    model: any module. layers: names as in `model.named_modules()`. pool: takes an output to (n, d).
    classifier: a module of the model, its name, or None for the last nn.Linear or head of labkit that runs; found by
        the first batch, with a warning where the model returns nothing of as many classes.

    Afterwards `weight` (C, d), `bias` (C,) or None, and `name`, of the classifier; weight is None where there is none
    and layers were asked for.
    """

    def __init__(
        self, model: nn.Module, layers: Sequence[str], classifier: str | nn.Module | None, pool: Callable, device: Any
    ):
        model = getattr(model, "_orig_mod", model)  # of torch.compile, whose code does not see hooks that come later
        self.model, self.pool = model, pool
        self.names = {module: name for name, module in model.named_modules()}
        modules = dict(model.named_modules())
        self.layers = {name: _named(modules, name) for name in layers}
        first = next(iter([*model.parameters(), *model.buffers()]), None)
        self.device = torch.device(device) if device is not None else first.device if first is not None else None
        self.name = self.module = self.weight = self.bias = None
        self.needed = not layers or classifier is not None
        if classifier is not None:
            module = _named(modules, classifier) if isinstance(classifier, str) else classifier
            if module not in self.names:
                raise ValueError(f"the classifier, a {type(module).__name__}, is not a module of the model")
            self._take(module)

    def _take(self, module):
        weight = getattr(module, "weight", None)
        name = self.names[module]
        if not isinstance(weight, Tensor) or weight.ndim != 2:
            shape = tuple(weight.shape) if isinstance(weight, Tensor) else None
            raise ValueError(f"the classifier {name!r} must have a weight of shape (C, d), got {shape}")
        self.module, self.name = module, name
        self.weight, self.bias = weight.detach(), getattr(module, "bias", None)
        self.own_bias = not (isinstance(module, heads.FixedETFHead) and module.follows)  # that one is of the last batch

    def read(self, loader: Iterable, labelled: bool = True) -> Iterator[Batch]:
        """Each batch of the loader, through the model."""
        for batch in loader:
            inputs, labels = _parts(batch, labelled)
            yield self._through(_moved(inputs, self.device), labels)

    def _through(self, inputs, labels):
        outputs, linear, runs, hooks = {}, {}, {}, []

        def keep(name):
            def hook(module, args, output):
                if name in outputs:
                    raise ValueError(
                        f"layer {name!r} ran more than once in a forward pass, so that its output is not one thing; "
                        "name a layer that runs once"
                    )
                output = _tensor(output[0] if isinstance(output, (tuple, list)) else output, name)
                found = self.pool(output)  # at once: what comes next may change it in place
                shared = found.untyped_storage().data_ptr() == output.untyped_storage().data_ptr()
                outputs[name] = found.clone() if shared else found

            return hook

        def before(module, args):
            runs[module] = runs.get(module, 0) + 1
            linear.pop(module, None)  # so that the last to run comes last
            found = args[0] if args else None
            linear[module] = [found, None, _version(found)]

        def after(module, args, output):
            linear[module][1] = output

        watched = [self.module] if self.module is not None else [m for m in self.names if isinstance(m, KINDS)]
        try:
            for name, module in self.layers.items():
                hooks.append(module.register_forward_hook(keep(name)))
            for module in watched:
                hooks += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
            returned = list(_tensors(_call(self.model, inputs)))
        finally:
            for hook in hooks:
                hook.remove()
        if self.module is None and linear:
            self._take(next(reversed(linear)))
            if returned and all(found.shape[-1:] != self.weight.shape[:1] for found in returned):
                shapes = ", ".join(str(tuple(found.shape)) for found in returned)
                warnings.warn(
                    f"{self.name!r}, the last nn.Linear or head to run, was taken for the classifier, but the model "
                    f"returns nothing of its {len(self.weight)} classes (shapes: {shapes}); classifier= names another",
                    stacklevel=2,
                )
        if (self.needed or self.module is not None) and self.module not in linear:
            what = (
                "no nn.Linear or head of labkit ran"
                if self.module is None
                else f"the classifier {self.name!r} did not run"
            )
            raise ValueError(
                f"{what} in the forward pass of this {type(self.model).__name__}, so that it is not known which "
                "features are classified: name the classifier=, a module with a weight of shape (C, d), or layers="
            )
        missing = [name for name in self.layers if name not in outputs]
        if missing:
            raise ValueError(f"layers that did not run in the forward pass: {', '.join(map(repr, missing))}")
        features = {name: outputs[name] for name in self.layers}  # in the order that was asked for
        guess = None
        if self.module in linear:
            found, logits, version = linear[self.module]
            if runs[self.module] > 1:
                raise ValueError(
                    f"the classifier {self.name!r} ran more than once in a forward pass, so that its input is not one "
                    "thing; name another classifier=, or layers="
                )
            if _version(found) != version:
                raise ValueError(f"what went into {self.name!r} was changed in place afterwards, and is lost")
            features[self.before] = self._seen(_tensor(found, self.before))
            guess = logits.argmax(-1)
        n = None if labels is None else len(labels)
        for name, found in features.items():
            if found.ndim != 2 or n not in (None, len(found)):
                raise ValueError(
                    f"features of {name!r} must be one vector for each of {n} labels, "
                    f"but have shape {tuple(found.shape)}"
                )
        return Batch(features, None if labels is None else labels.to(next(iter(features.values())).device), guess)

    def _seen(self, z):
        """The features as a head of labkit sees them: on its sphere. Half precision is widened first, as heads do."""
        if not hasattr(self.module, "normalize"):
            return z
        return self.module.normalize(z if z.dtype == torch.float64 else z.float())

    @property
    def before(self) -> str:
        """What the features that the classifier sees are called."""
        return f"before {self.name}" if self.name else "before the classifier"


def _version(found):
    """How often a tensor was changed in place; None for what does not know."""
    return None if not isinstance(found, Tensor) or found.is_inference() else found._version


def _named(modules, name):
    if name not in modules or not name:
        known = [other for other in modules if other]
        close = difflib.get_close_matches(str(name), known, 3, 0.4)
        hint = (
            f"; {'close to it' if close else 'the first that it has'}: {', '.join(map(repr, close or known[:8]))}"
            if known
            else ""
        )
        raise ValueError(f"the model has no layer {name!r}{hint}")
    return modules[name]


def _tensors(output):
    """The tensors in what a model returns: one, or several in tuples, lists and mappings."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (tuple, list, Mapping)):
        for part in output.values() if isinstance(output, Mapping) else output:
            yield from _tensors(part)


def _tensor(output, name):
    if not isinstance(output, Tensor) or not output.is_floating_point():
        kind = output.dtype if isinstance(output, Tensor) else type(output).__name__
        raise TypeError(f"layer {name!r} must give a floating-point tensor, got {kind}")
    return output.detach()


def _parts(batch, labelled):
    """Inputs and labels of a batch: (inputs, labels), or a mapping with "labels" or "label" among its keys."""
    if isinstance(batch, Mapping):
        key = next((key for key in ("labels", "label") if key in batch), None)
        inputs = {name: value for name, value in batch.items() if name != key}
        labels = batch[key] if key else None
    elif isinstance(batch, (tuple, list)) and len(batch) > 1:
        inputs, labels = batch[0], batch[1]
    else:
        inputs, labels = batch[0] if isinstance(batch, (tuple, list)) and len(batch) == 1 else batch, None
    if not labelled:
        return inputs, None
    if labels is None:
        raise TypeError(
            "a batch must be (inputs, labels), or a mapping with 'labels' among its keys; got "
            + (f"a mapping of {sorted(batch)}" if isinstance(batch, Mapping) else f"a {type(batch).__name__}")
        )
    return inputs, torch.as_tensor(labels)


def _moved(inputs, device):
    if isinstance(inputs, Tensor):
        return inputs if device is None else inputs.to(device)
    if isinstance(inputs, Mapping):
        return {name: _moved(value, device) for name, value in inputs.items()}
    return type(inputs)(_moved(value, device) for value in inputs) if isinstance(inputs, (tuple, list)) else inputs


def _call(model, inputs):
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)
