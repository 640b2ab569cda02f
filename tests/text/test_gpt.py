"""GPT-2 with any activation, against transformers' own GPT-2."""

import math

import pytest
import torch

from labkit.activations import AGLU, APA
from labkit.text import gpt as module
from labkit.text.gpt import decay_groups, gpt, shapes_by_depth

GPT2_SMALL = 124_439_808  # of Radford et al. 2019, the embedding counted once


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def seeded(*arguments, **options):
    torch.manual_seed(0)
    return gpt(*arguments, **options)


def test_gpt2_small_has_its_parameters_and_two_more_for_each_of_twelve_aglus():
    with torch.device("meta"):
        assert parameters(gpt("gpt2-small")) == GPT2_SMALL
        assert parameters(gpt("gpt2-small", vocabulary=50304)) == 124_475_904  # build-nanogpt's padded one
        model = gpt("gpt2-small", "aglu")
    assert parameters(model) == GPT2_SMALL + 24
    own = [m for m in model.modules() if isinstance(m, AGLU)]
    assert len({id(m.kappa) for m in own}) == len({id(m.lam) for m in own}) == 12
    assert model.lm_head.weight is model.transformer.wte.weight


@pytest.mark.parametrize(
    ("activation", "theirs", "options"),
    [
        ("aglu", "silu", dict(kappa_init=(1.0, 1.0), lambda_init=(1.0, 1.0))),
        ("silu", "silu", {}),
        ("relu", "relu", {}),
        ("gelu", "gelu_new", {}),  # GPT-2's own
        ("apa", "sigmoid", dict(kappa_init=(1.0, 1.0), lambda_init=(1.0, 1.0))),
    ],
)
def test_logits_are_those_of_transformers(activation, theirs, options, monkeypatch):
    # Twelve layers of width 768 as in GPT-2 small for the first, which is the claim; few tokens, to be quick.
    size = "gpt2-small" if activation == "aglu" else "char"
    ours = seeded(size, activation, vocabulary=300, context=32, **options).eval()
    config = ours.config.to_dict() | {"activation_function": theirs}
    library = module.import_transformers()
    monkeypatch.setattr(library.GPT2LMHeadModel, "init_weights", lambda self: None)  # it is given ours, below
    reference = library.GPT2LMHeadModel(library.GPT2Config(**config)).eval()
    left = reference.load_state_dict(ours.state_dict(), strict=False)
    assert not left.missing_keys and all(key.endswith((".kappa", ".lam")) for key in left.unexpected_keys)
    tokens = torch.randint(300, (2, 32))
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens).logits, reference(tokens).logits, rtol=0, atol=1e-5)


def test_weights_are_drawn_as_in_gpt2_and_are_the_same_whatever_the_activation():
    gelu, aglu = seeded("char", "gelu"), seeded("char", "aglu")
    others = dict(aglu.named_parameters())
    for name, p in gelu.named_parameters():
        assert torch.equal(p, others[name]), name
        if "ln_" in name:
            assert (p == (1.0 if name.endswith("weight") else 0.0)).all()
        elif name.endswith("bias"):
            assert not p.any()
        else:
            wanted = 0.02 / math.sqrt(2 * 5) if "c_proj" in name else 0.02
            assert p.std().item() == pytest.approx(wanted, rel=0.05), name
    assert 0.9e6 < parameters(gelu) < 1.2e6 and len([m for m in aglu.modules() if isinstance(m, AGLU)]) == 5
    assert [m.inplace for m in seeded("char", "relu").modules() if isinstance(m, torch.nn.ReLU)] == [False] * 5


def test_norms_biases_kappa_and_lambda_do_not_decay():
    model = gpt("char", "aglu")
    decayed, free = ({id(p) for p in group["params"]} for group in decay_groups(model, 0.1))
    for name, p in model.named_parameters():
        last = name.rsplit(".", 1)[-1]
        assert (id(p) in free) == (last in ("bias", "kappa", "lam") or "ln_" in name), name
    assert not decayed & free and [g["weight_decay"] for g in decay_groups(model, 0.1)] == [0.1, 0.0]


def test_kappa_and_lambda_by_depth():
    model = gpt("char", "apa")
    for depth, layer in enumerate(m for m in model.modules() if isinstance(m, APA)):
        layer.kappa.data.fill_(depth + 1.0)
        layer.lam.data.fill_((depth + 1) / 8)
    layer.lam.data.fill_(-0.2)  # trained below its floor
    assert shapes_by_depth(model) == {
        f"{name}_{k}": k * scale for k in range(1, 6) for name, scale in (("kappa", 1), ("lambda", 1 / 8))
    } | {"lambda_5": pytest.approx(1e-8)}
    assert shapes_by_depth(gpt("char")) == {}


def test_it_is_causal_and_refuses_what_it_does_not_know():
    model = seeded("char", "aglu").eval()
    tokens = torch.randint(256, (1, 64))
    changed = tokens.clone()
    changed[0, 40:] = 0
    with torch.no_grad():
        before, after = model(tokens).logits, model(changed).logits
    torch.testing.assert_close(before[:, :40], after[:, :40])
    assert not torch.allclose(before[:, 40:], after[:, 40:])
    for arguments in (("gpt3",), ("char", "swish"), ("char", "gelu", -1)):
        with pytest.raises((ValueError, TypeError)):
            gpt(*arguments)
    for options in (dict(vocabulary=0), dict(context=True), dict(vocabulary=2.5)):
        with pytest.raises(ValueError, match="an integer of at least 1"):
            gpt("char", **options)
