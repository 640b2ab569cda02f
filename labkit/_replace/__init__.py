"""Other activations in any network: `activations.replace`, and which of its parameters take no weight decay."""

from collections.abc import Callable

from torch import Tensor, nn

from labkit import checks
from labkit._replace.uses import FUNCTIONS, traced, uses_of, widths_of, widths_of_uses, written_anew


def replace(
    model: nn.Module,
    old: type[nn.Module] = nn.ReLU,
    new: str | Callable[..., nn.Module] = "aglu",
    *,
    by: str = "use",
    example: Tensor | tuple | None = None,
    channel_dim: int = 1,
) -> nn.Module:
    """Put a new activation with parameters of its own in each place where a network uses an `old` one. Use what it
    returns.

    old: a class of modules. new: "aglu", "apa", or a function (or class) that makes a module in each call.
    by: "use" finds the uses with torch.fx. Where each is a module of its own, these are replaced, and the model itself
        is returned. Where a module is used several times (one ReLU for two places of a block in torchvision's ResNets),
        or a function such as F.relu, the forward pass has to be written anew: an fx.GraphModule is returned, with the
        same weights under the same names. It shares the model's parameters, but has no method of it but forward, and
        no hooks of its blocks.
        "module" replaces modules as they are, without a look at the forward pass: what uses one module twice has one
        set of parameters for both, and functions stay.
    example: inputs of the model, a tensor or a tuple. With them each new activation has parameters for each channel: it
        is made with num_channels, the size of dimension `channel_dim`, 1 or -1, of what comes in, and channel_dim.

    Raises ValueError where there is nothing to replace, and where the uses cannot be told: torch.fx does not get
    through the forward pass, this is another one in training than in evaluation, or a layer of torch hides its
    activation.

    >>> model = replace(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    >>> type(model[1]).__name__, sum(p.numel() for p in model[1].parameters())
    ('AGLU', 2)
    """
    checks.one_of("by", by, ("use", "module"))
    checks.one_of("channel_dim", channel_dim, (1, -1))
    _refuse_hidden(model, old)
    graph = traced(model, old) if by == "use" else None
    uses = uses_of(model, graph, old) if by == "use" else []
    modules = [m for m in model.modules() if isinstance(m, old)] if by == "module" else [m for _, m in uses]
    if not modules:
        kinds = {type(m).__name__ for m in model.modules() if type(m).__module__ == "torch.nn.modules.activation"}
        raise ValueError(
            f"this {type(model).__name__} uses no {old.__name__}; activations that it has as modules: "
            f"{', '.join(sorted(kinds)) or 'none'}"
        )
    widths = [None] * len(modules)
    if example is not None:
        example = example if isinstance(example, tuple) else (example,)
        widths = widths_of_uses(model, graph, uses, example) if uses else widths_of(model, modules, example)
        widths = [shape[channel_dim] for shape in widths]
    made = [_made(model, new, width, channel_dim) for width in widths]
    if None in modules or len(set(modules)) < len(modules):
        return written_anew(model, graph, uses, made)
    for module, activation in zip(modules, made):
        for name, found in list(model.named_modules(remove_duplicate=False)):
            if found is module:
                if not name:
                    return activation
                model.set_submodule(name, activation)
    return model


def parameter_groups(model: nn.Module, weight_decay: float, *, all_vectors: bool = False) -> list[dict]:
    """Two groups of parameters for an optimiser of torch: those with weight decay, and κ and λ of APA and AGLU without,
    which decay would draw to 0, where an activation is another one.

    all_vectors: whether biases, scales of norms and all else of fewer than two dimensions go without, too.

    >>> groups = parameter_groups(replace(nn.Sequential(nn.Linear(3, 4), nn.ReLU())), 5e-4)
    >>> [(len(group["params"]), group["weight_decay"]) for group in groups]
    [(2, 0.0005), (2, 0.0)]
    """
    without = set(no_weight_decay(model))
    groups = {"params": [], "weight_decay": weight_decay}, {"params": [], "weight_decay": 0.0}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[name in without or (all_vectors and parameter.ndim < 2)]["params"].append(parameter)
    return [group for group in groups if group["params"]]


def no_weight_decay(model: nn.Module) -> list[str]:
    """The names of all κ and λ in a model, as timm's optimisers take them.

    >>> no_weight_decay(replace(nn.Sequential(nn.Linear(3, 4), nn.ReLU())))
    ['1.kappa', '1.lam']
    """
    from labkit.activations import AGLU, APA  # which has this module's functions among its own

    found = ((name, m) for name, m in model.named_modules() if isinstance(m, (AGLU, APA)))
    return [f"{name}.{part}".lstrip(".") for name, m in found for part in ("kappa", "lam")]


def _made(model, new, width, channel_dim):
    from labkit.activations import AGLU, APA

    if isinstance(new, str):
        checks.one_of("new", new, ("aglu", "apa"))
        new = {"aglu": AGLU, "apa": APA}[new]
    activation = new() if width is None else new(num_channels=width, channel_dim=channel_dim)
    if not isinstance(activation, nn.Module):
        raise TypeError(f"new must make a module in each call, got {type(activation).__name__}")
    like = next((p for p in model.parameters() if p.is_floating_point()), None)
    return activation if like is None else activation.to(like.device, like.dtype)


def _refuse_hidden(model, old):
    for name, module in model.named_modules():
        hidden = getattr(module, "activation", None)
        if isinstance(module, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)) and (
            hidden in FUNCTIONS.get(old, ()) or isinstance(hidden, old)
        ):
            raise ValueError(
                f"{name or 'the model'}, a {type(module).__name__} of torch, uses {old.__name__} inside, where it "
                "cannot be replaced by its place: set its `activation` by hand"
            )
