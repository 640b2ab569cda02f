"""GPT-2 from Hugging Face transformers, with any activation in its MLPs. Nothing is downloaded.

gpt("gpt2-small", activation="aglu")            Radford et al. 2019, 124 439 808 parameters and 24 of twelve AGLUs
gpt("char", vocabulary=65)                      about one million, for one core
"""

import contextlib
from functools import partial
from typing import Any

from torch import nn

from labkit import checks
from labkit.activations import AGLU, APA
from labkit.system import import_torchvision

# layers, heads, width, tokens of context, vocabulary
SIZES = {
    "gpt2-small": dict(n_layer=12, n_head=12, n_embd=768, n_positions=1024, vocab_size=50257),
    "tiny": dict(n_layer=2, n_head=4, n_embd=64, n_positions=128, vocab_size=256),
    "char": dict(n_layer=5, n_head=4, n_embd=128, n_positions=128, vocab_size=256),
}
# GELU is GPT-2's own: the tanh form, here in one pass where transformers has eight.
ACTIVATIONS = {"gelu": partial(nn.GELU, approximate="tanh"), "silu": nn.SiLU, "relu": nn.ReLU, "aglu": AGLU, "apa": APA}


def gpt(
    size: str = "gpt2-small",
    activation: str = "gelu",
    *,
    vocabulary: int | None = None,
    context: int | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> nn.Module:
    """A GPT2LMHeadModel with new weights: model(tokens (B, T)).logits is (B, T, vocabulary).

    size: "gpt2-small", "char" (5 layers of width 128) or "tiny" (2 of width 64, which learns something in a minute).
    vocabulary, context: in place of the size's own.
    activation: "gelu", "silu", "relu", "aglu" or "apa", in every MLP a module of its own, with its own κ and λ.
    options: keyword arguments of the activation, such as kappa_init=(1.0, 1.0).

    The embedding is the classifier (tied). Weights are drawn as in GPT-2: N(0, 0.02), the last layer of every residual
    branch by 1/√(2 · layers) smaller, biases 0; at one seed they are the same whatever the activation.

    >>> model = gpt("char", "aglu", vocabulary=65)
    >>> sum(p.numel() for p in model.parameters()), type(model.transformer.h[0].mlp.act).__name__
    (1016330, 'AGLU')
    """
    checks.one_of("size", size, tuple(SIZES))
    checks.one_of("activation", activation, tuple(ACTIVATIONS))
    sizes = dict(SIZES[size])
    for name, key, value in (("vocabulary", "vocab_size", vocabulary), ("context", "n_positions", context)):
        if value is not None:
            sizes[key] = checks.integer(name, value, 1)
    library = import_transformers()
    config = library.GPT2Config(
        **sizes,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        use_cache=False,
        bos_token_id=None,  # of the vocabulary of 50 257 tokens, which ours need not be
        eos_token_id=None,
    )
    model = library.GPT2LMHeadModel(config)
    for block in model.transformer.h:
        block.mlp.act = ACTIVATIONS[activation](**options)
    return model


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Parameter groups for an optimiser: decay for matrices (and embeddings), none for norms, biases, κ and λ, as in
    build-nanogpt.

    >>> [len(group["params"]) for group in decay_groups(gpt("char", "aglu"), 0.1)]
    [22, 52]
    """
    learnt = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in learnt if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in learnt if p.ndim < 2], "weight_decay": 0.0},
    ]


def shapes_by_depth(model: nn.Module) -> dict[str, float]:
    """The κ and λ of every layer, λ as it is used, from the input on: {"kappa_1": …, "lambda_1": …, "kappa_2": …}; {}
    without any.
    """
    found = {}
    for module in (m for m in model.modules() if isinstance(m, (AGLU, APA))):
        depth = len(found) // 2 + 1
        found |= {f"kappa_{depth}": module.kappa.item(), f"lambda_{depth}": module.used_lam.item()}
    return found


def import_transformers():
    """The transformers library, after torchvision, which it imports where there is one, and which can need a hand."""
    with contextlib.suppress(ModuleNotFoundError):
        import_torchvision()
    import transformers

    return transformers
