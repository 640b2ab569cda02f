"""Where a forward pass uses an activation, found with torch.fx, and a forward pass with others in these places."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import fx, nn

# What a forward pass may call in place of a module; a name is that of a method of tensors.
FUNCTIONS = {
    nn.ReLU: (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"),
    nn.ReLU6: (F.relu6,),
    nn.LeakyReLU: (F.leaky_relu, F.leaky_relu_),
    nn.RReLU: (F.rrelu, F.rrelu_, torch.rrelu, torch.rrelu_),
    nn.PReLU: (F.prelu, torch.prelu, "prelu"),
    nn.Threshold: (F.threshold, F.threshold_, torch.threshold, torch.threshold_),
    nn.ELU: (F.elu, F.elu_),
    nn.SELU: (F.selu, F.selu_, torch.selu, torch.selu_),
    nn.CELU: (F.celu, F.celu_, torch.celu, torch.celu_),
    nn.GELU: (F.gelu,),
    nn.SiLU: (F.silu,),
    nn.Mish: (F.mish,),
    nn.Sigmoid: (F.sigmoid, torch.sigmoid, torch.sigmoid_, torch.special.expit, "sigmoid", "sigmoid_"),
    nn.LogSigmoid: (F.logsigmoid,),
    nn.Tanh: (F.tanh, torch.tanh, torch.tanh_, "tanh", "tanh_"),
    nn.Tanhshrink: (F.tanhshrink,),
    nn.Softplus: (F.softplus,),
    nn.Softsign: (F.softsign,),
    nn.Softshrink: (F.softshrink,),
    nn.Hardtanh: (F.hardtanh, F.hardtanh_, F.relu6),  # nn.ReLU6 is a Hardtanh too
    nn.Hardsigmoid: (F.hardsigmoid,),
    nn.Hardswish: (F.hardswish,),
    nn.Hardshrink: (F.hardshrink, torch.hardshrink, "hardshrink"),
    nn.GLU: (F.glu,),
    nn.Softmax: (F.softmax, torch.softmax, torch.special.softmax, "softmax"),
    nn.Softmin: (F.softmin,),
    nn.LogSoftmax: (F.log_softmax, torch.log_softmax, torch.special.log_softmax, "log_softmax"),
}


@contextmanager
def mode(model: nn.Module, training: bool) -> Iterator[None]:
    """The whole model in training or in evaluation; afterwards each module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.train(training)
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def traced(model: nn.Module, old: type[nn.Module]) -> fx.Graph:
    """The graph of the forward pass; in training and in evaluation it must be the same."""

    class Tracer(fx.Tracer):
        def is_leaf_module(self, module, name):
            return isinstance(module, old) or super().is_leaf_module(module, name)

    parameters = inspect.signature(model.forward).parameters.values()
    fixed = {p.name: p.default for p in parameters if isinstance(p.default, (type(None), bool, int, float))}
    graphs = []
    for training in (True, False):
        with mode(model, training):
            try:
                graphs.append(Tracer().trace(model, fixed or None))
            except Exception as error:  # whatever the forward pass makes of arguments that are no tensors
                raise ValueError(
                    f"torch.fx cannot trace the forward pass of this {type(model).__name__}, so that its uses of "
                    f"{old.__name__} are not known: {type(error).__name__}: {error}. by='module' replaces its modules "
                    "as they are"
                ) from error
    if str(graphs[0]) != str(graphs[1]):
        raise ValueError(
            f"the forward pass of this {type(model).__name__} is another one in training than in evaluation, and one "
            "graph cannot stand for both: by='module' replaces its modules as they are"
        )
    return graphs[0]


def uses_of(model: nn.Module, graph: fx.Graph, old: type[nn.Module]) -> list[tuple]:
    """(node, module) of each use, in the order of the forward pass; the module is None for a function."""
    found, modules = [], dict(model.named_modules(remove_duplicate=False))
    for node in graph.nodes:
        if node.op == "call_module":
            module = modules[node.target]
            inside = [name for name, m in module.named_modules() if name and isinstance(m, old)]
            if inside and not isinstance(module, old):
                raise ValueError(
                    f"{node.target}, a {type(module).__name__} of torch, has {old.__name__} inside ({inside[0]}), and "
                    "torch.fx does not look into it: by='module' replaces its modules as they are"
                )
            if isinstance(module, old):
                found.append((node, module))
        elif node.op in ("call_function", "call_method") and node.target in FUNCTIONS.get(old, ()):
            found.append((node, None))
    return found


def _in_place(node, module):
    """Whether a use changes what comes into it, as nn.ReLU(inplace=True), F.relu(x, True) and x.relu_() do."""
    if module is not None:
        return getattr(module, "inplace", False)
    method = isinstance(node.target, str)
    if method or not inspect.isfunction(node.target):  # of torch's own, which have no such argument
        return (node.target if method else node.target.__name__).endswith("_")
    return inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments.get("inplace", False) is True


def _input(node):
    return node.args[0] if node.args else node.kwargs["input"]


def widths_of_uses(model: nn.Module, graph: fx.Graph, uses: list, example: tuple) -> list:
    """The shape of what comes into each use."""
    shapes = {}

    class Looking(fx.Interpreter):
        def run_node(self, node):
            out = super().run_node(node)
            shapes[node] = getattr(out, "shape", None)
            return out

    with mode(model, False), torch.no_grad():
        Looking(fx.GraphModule(model, graph)).run(*example)
    return [shapes[_input(node)] for node, _ in uses]


def widths_of(model: nn.Module, modules: list, example: tuple) -> list:
    """The shape of what comes into each module."""
    shapes = {}
    hooks = [m.register_forward_pre_hook(lambda m, args: shapes.update({m: args[0].shape})) for m in modules]
    try:
        with mode(model, False), torch.no_grad():
            model(*example)
    finally:
        for hook in hooks:
            hook.remove()
    if missing := [m for m in modules if m not in shapes]:
        raise ValueError(f"{len(missing)} activations did not run with this example: their channels are not known")
    return [shapes[m] for m in modules]


def written_anew(model: nn.Module, graph: fx.Graph, uses: list, made: list) -> fx.GraphModule:
    """A GraphModule in which each use calls its own activation."""
    written = fx.GraphModule(model, graph, type(model).__name__)
    modes = {name: module.training for name, module in model.named_modules()}
    nodes, taken = {node.name: node for node in written.graph.nodes}, set()
    for (use, module), activation in zip(uses, made):
        if module is None:
            stack = list(use.meta.get("nn_module_stack", {}).values())
            place = f"{stack[-1][0]}.act" if stack and stack[-1][0] else "act"
            taken |= {place} & set(modes)
        else:
            place = use.target  # the first use of a module has its name
        name, k = place, 1
        while name in taken or (k > 1 and name in modes):
            k += 1
            name = f"{place}_{k}"
        taken.add(name)
        written.add_submodule(name, activation)
        node = nodes[use.name]
        with written.graph.inserting_after(node):
            call = written.graph.call_module(name)
        node.replace_all_uses_with(call)
        call.args = (found := _input(node),)
        written.graph.erase_node(node)
        if _in_place(use, module):  # what looked at its input afterwards saw what came out
            order = {node: k for k, node in enumerate(written.graph.nodes)}
            for user in [user for user in found.users if order[user] > order[call]]:
                user.replace_input_with(found, call)
    written.recompile()
    for name, module in written.named_modules():
        module.training = modes.get(name, model.training)
    return written
