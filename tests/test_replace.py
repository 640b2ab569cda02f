"""activations.replace: each use with parameters of its own, the same network otherwise, and clear refusals."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from labkit import activations
from labkit.activations import AGLU, APA, aglu


def count(model):
    return sum(p.numel() for p in model.parameters())


def images(n=2, side=32):
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(0))


def torchvision():
    import labkit.vision  # torchvision imports beside any build of torch

    return labkit.vision.torchvision.models


class Block(nn.Module):
    """Uses one ReLU twice, and a function once."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.act, self.idle = nn.Linear(5, 5), nn.Linear(5, 3), nn.ReLU(), nn.ReLU()

    def forward(self, x, scale=None):
        x = self.act(self.a(x))
        x = x if scale is None else scale * x
        return self.act(self.b(F.relu(x - 0.1)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = Block(), Block()
        self.between = nn.Linear(3, 5)

    def forward(self, x):
        return self.second(self.between(self.first(x)).relu())


# --- torchvision's ResNet-18 --------------------------------------------------------------------------------------


def test_torchvision_resnet18_has_17_activations_of_its_own():
    torch.manual_seed(0)
    plain = torchvision().resnet18(num_classes=3)
    model = activations.replace(plain)
    learnt = [m for m in model.modules() if isinstance(m, AGLU)]
    assert len(learnt) == 17 and count(model) == count(plain) + 34
    assert len({id(m.kappa) for m in learnt} | {id(m.lam) for m in learnt}) == 34
    assert not any(isinstance(m, nn.ReLU) for m in model.modules())
    assert set(model.state_dict()) - set(plain.state_dict()) == set(activations.no_weight_decay(model))
    model(images()).square().sum().backward()
    assert all(m.kappa.grad != 0 and m.lam.grad != 0 for m in learnt)
    # in the order of the forward pass, and by names that say where
    names = [name for name, m in model.named_modules() if isinstance(m, AGLU)]
    assert {"relu", "layer1.0.relu", "layer1.0.relu_2", "layer4.1.relu_2"} <= set(names)
    by_module = activations.replace(torchvision().resnet18(num_classes=3), by="module")
    assert count(by_module) == count(plain) + 18  # one for both places of a block


@pytest.mark.parametrize(
    "name, old", [("resnet18", nn.ReLU), ("densenet121", nn.ReLU), ("mobilenet_v3_small", nn.Hardswish)]
)
def test_the_network_is_otherwise_the_same(name, old):
    torch.manual_seed(0)
    plain = getattr(torchvision(), name)(num_classes=3)
    same = activations.replace(copy.deepcopy(plain), old, lambda: old())
    for mode in (True, False):
        torch.manual_seed(1)  # for dropout
        wanted = plain.train(mode)(images())
        torch.manual_seed(1)
        torch.testing.assert_close(same.train(mode)(images()), wanted, rtol=1e-5, atol=1e-6)
    same.load_state_dict(plain.state_dict())


def test_timm():
    import labkit.vision  # noqa: F401

    timm = pytest.importorskip("timm")
    resnet = timm.create_model("resnet18", num_classes=3)
    before = count(resnet)
    assert activations.replace(resnet) is resnet and count(resnet) == before + 34  # each has a module of its own there
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=3)
    before = count(vit)
    model = activations.replace(vit, nn.GELU, "aglu", example=images(), channel_dim=-1)
    assert model is vit and count(vit) == before + 12 * 2 * 768
    assert model.blocks[0].mlp.act.channel_dim == -1
    model(images()).sum().backward()
    assert (model.blocks[3].mlp.act.kappa.grad != 0).all()


# --- uses ---------------------------------------------------------------------------------------------------------


def test_functions_methods_and_nested_blocks():
    plain = Net()
    model = activations.replace(plain)
    assert len(activations.no_weight_decay(model)) == 2 * 7
    assert plain.first.act.__class__ is nn.ReLU and model is not plain  # the first is as it was
    same = activations.replace(plain, new=nn.ReLU)
    x = torch.randn(4, 5)
    assert torch.equal(same(x), plain(x))
    assert model.first.a.weight is plain.first.a.weight
    names = {name for name, m in model.named_modules() if isinstance(m, AGLU)}
    assert names == {"act", *(f"{b}.{n}" for b in ("first", "second") for n in ("act", "act_2", "act_3"))}


def test_each_use_is_where_its_parameters_say():
    model = activations.replace(Block(), new=lambda: AGLU(kappa_init=(1, 1), lambda_init=(1, 1)))
    x = torch.randn(4, 5)
    silu = F.silu
    wanted = silu(model.b(silu(silu(model.a(x)) - 0.1)))
    torch.testing.assert_close(model(x), wanted)
    with torch.no_grad():
        model.act.kappa.fill_(3.0)  # the first use
    wanted = silu(model.b(silu(aglu(model.a(x), 3.0, 1.0) - 0.1)))
    torch.testing.assert_close(model(x), wanted)


class InPlace(nn.Module):
    """Activations whose result is what their input has become."""

    def __init__(self, act):
        super().__init__()
        self.a, self.b, self.act = nn.Linear(5, 5), nn.Linear(5, 5), act

    def forward(self, x):
        x = self.a(x)
        before = 2 * x
        self.act(x)
        F.relu(x - 0.1, True)
        out = F.relu_(self.b(x))
        return self.b(out) + self.b(x) + before


def test_what_an_activation_changes_in_place_is_changed():
    plain, x = InPlace(nn.ReLU(inplace=True)), torch.randn(4, 5)
    torch.testing.assert_close(activations.replace(plain, new=nn.ReLU)(x), plain(x))
    model = activations.replace(plain)
    model(x).sum().backward()
    assert model.act.kappa.grad is not None and model.act.kappa.grad != 0


class Uses(nn.Module):
    """x plus what a function makes of 2x."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        y = 2 * x
        return self.function(y) + y


@pytest.mark.parametrize(
    "kind", [k for k in nn.modules.activation.__all__ if k not in ("MultiheadAttention", "Softmax2d")]
)
def test_every_activation_of_torch_is_found_as_a_function(kind):
    name = {"LeakyReLU": "leaky_relu", "LogSoftmax": "log_softmax"}.get(kind, kind.lower())
    more = {"threshold": (0.0, 0.0), "prelu": (torch.tensor([0.2]),)}
    more = more.get(name, (1,) if ("soft" in name and "max" in name) or name == "softmin" else ())
    found = 0
    for place in (F, torch, torch.special, torch.Tensor):
        for inplace in ("", "_"):
            if hasattr(place, name + inplace):
                function = getattr(place, name + inplace)
                call = lambda y, f=function: f(y, *more)
                if place is torch.Tensor:
                    call = lambda y, n=name + inplace: getattr(y, n)(*more)
                x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
                model = activations.replace(Uses(call), getattr(nn, kind), lambda: AGLU((1, 1), (1, 1)))
                silu = 2 * x * torch.sigmoid(2 * x)
                torch.testing.assert_close(model(x), silu + (silu if inplace else 2 * x))
                found += 1
    assert found > 0


@pytest.mark.parametrize(
    "call, kind, inplace",
    [
        (lambda y: F.elu(y, 1.0), nn.ELU, False),
        (lambda y: F.elu(y, 1.0, True), nn.ELU, True),
        (lambda y: F.rrelu(y, 0.1, 0.3, True), nn.RReLU, False),
        (lambda y: F.hardtanh(y, -1, 1), nn.Hardtanh, False),
        (lambda y: F.relu6(y, inplace=True), nn.ReLU6, True),
    ],
)
def test_what_is_in_place_is_told_by_its_argument(call, kind, inplace):
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    silu = 2 * x * torch.sigmoid(2 * x)
    model = activations.replace(Uses(call), kind, lambda: AGLU((1, 1), (1, 1)))
    torch.testing.assert_close(model(x), silu + (silu if inplace else 2 * x))


def test_one_module_in_several_places():
    shared = nn.ReLU()
    model = activations.replace(nn.Sequential(nn.Linear(3, 3), shared, nn.Linear(3, 3), shared))
    assert len(activations.no_weight_decay(model)) == 4
    model = activations.replace(nn.Sequential(nn.Linear(3, 3), shared, nn.Linear(3, 3), shared), by="module")
    assert model[1] is model[3] and isinstance(model[1], AGLU)
    assert isinstance(activations.replace(nn.ReLU(), by="module"), AGLU)
    assert isinstance(activations.replace(nn.ReLU()), nn.Module)


def test_kinds_dtypes_and_modes():
    model = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Dropout()).double().eval()
    model = activations.replace(model, nn.Sigmoid, "apa")
    assert isinstance(model[1], APA) and model[1].kappa.dtype == torch.float64 and not model.training
    block = Block().eval()
    block.a.train()
    written = activations.replace(block)
    assert not written.training and written.a.training and block.a.training and not block.training


@pytest.mark.parametrize("by", ["use", "module"])
@pytest.mark.parametrize("channel_dim", [1, -1])
def test_a_pair_for_each_channel(by, channel_dim):
    layers = (nn.Linear(7, 4), nn.ReLU()) if channel_dim == -1 else (nn.Conv1d(5, 6, 1), nn.ReLU())
    model = activations.replace(nn.Sequential(*layers), by=by, example=torch.randn(2, 5, 7), channel_dim=channel_dim)
    assert model[1].kappa.shape == ((4,) if channel_dim == -1 else (6,))
    model(torch.randn(2, 5, 7)).sum().backward()
    block = activations.replace(Block(), example=torch.randn(2, 5))
    assert [m.num_channels for m in (block.act, block.act_2, block.act_3)] == [5, 5, 3]


# --- refusals -----------------------------------------------------------------------------------------------------


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(x) if x.sum() > 0 else x


class InTraining(nn.Module):
    def __init__(self):
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x):
        return F.dropout(self.act(self.act(x)), training=self.training)


def test_refused():
    with pytest.raises(ValueError, match="torch.fx cannot trace the forward pass of this Branches.*by='module'"):
        activations.replace(Branches())
    assert isinstance(activations.replace(Branches(), by="module").act, AGLU)
    with pytest.raises(ValueError, match="another one in training than in evaluation"):
        activations.replace(InTraining())
    with pytest.raises(ValueError, match="this Sequential uses no ReLU; activations that it has as modules: GELU"):
        activations.replace(nn.Sequential(nn.GELU()))
    with pytest.raises(ValueError, match="a TransformerEncoderLayer of torch, uses ReLU inside"):
        activations.replace(nn.TransformerEncoderLayer(8, 2))
    with pytest.raises(ValueError, match="new must be one of 'aglu', 'apa'"):
        activations.replace(nn.Sequential(nn.ReLU()), new="agla")
    with pytest.raises(ValueError, match="by must be one of"):
        activations.replace(nn.Sequential(nn.ReLU()), by="name")
    with pytest.raises(ValueError, match="channel_dim must be one of"):
        activations.replace(nn.Sequential(nn.ReLU()), channel_dim=2)
    with pytest.raises(TypeError, match="must make a module in each call, got Tensor"):
        activations.replace(nn.Sequential(nn.ReLU()), new=lambda: torch.ones(1))
    with pytest.raises(ValueError, match="1 activations did not run with this example"):
        activations.replace(Block(), by="module", example=torch.randn(2, 5))


def test_fixed_arguments_are_refused_where_they_change():
    model = activations.replace(Block())
    with pytest.raises(AssertionError):
        model(torch.randn(2, 5), torch.ones(2, 5))


# --- weight decay -------------------------------------------------------------------------------------------------


def test_parameter_groups():
    model = activations.replace(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 2)))
    decayed, plain = activations.parameter_groups(model, 0.1)
    assert {id(p) for p in plain["params"]} == {id(model[1].kappa), id(model[1].lam)} and plain["weight_decay"] == 0
    assert len(decayed["params"]) == 6 and decayed["weight_decay"] == 0.1
    decayed, plain = activations.parameter_groups(model, 0.1, all_vectors=True)
    assert {id(p) for p in decayed["params"]} == {id(model[0].weight), id(model[3].weight)}
    before = model[1].kappa.item()
    optimizer = torch.optim.SGD(activations.parameter_groups(model, 0.5), lr=0.1)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert model[1].kappa.item() == before
    model.requires_grad_(False)
    assert activations.parameter_groups(model, 0.1) == []


# --- channels last, and other programs that look at a forward pass -------------------------------------------------


@pytest.mark.parametrize("module", [APA, AGLU])
def test_channels_on_the_last_axis(module):
    last, first = module(num_channels=6, channel_dim=-1), module(num_channels=6)
    first.load_state_dict(last.state_dict())
    for shape in ((4, 6), (4, 5, 6), (2, 3, 4, 6), (300, 400, 6)):
        z = torch.randn(*shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
        out, wanted = last(z), first(z.movedim(-1, 1)).movedim(1, -1)
        assert torch.equal(out, wanted) and out.is_contiguous()
        found = torch.autograd.grad(out.square().sum(), (z, last.kappa, last.lam))
        torch.testing.assert_close(found, torch.autograd.grad(wanted.square().sum(), (z, first.kappa, first.lam)))
    assert "channel_dim=-1" in repr(last)
    with pytest.raises(ValueError, match="has 6 channels"):
        last(torch.randn(6, 5, 4))
    with pytest.raises(ValueError, match="channel_dim must be one of"):
        module(channel_dim=2)
    torch.testing.assert_close(aglu(z, last.kappa, 0.5, channel_dim=-1)[..., 2], aglu(z[..., 2], last.kappa[2], 0.5))


MODULES = pytest.mark.parametrize(
    "make",
    [AGLU, lambda: APA(num_channels=3), lambda: AGLU(num_channels=4, channel_dim=-1, floor="released")],
    ids=["AGLU", "channels", "last"],
)


@MODULES
def test_jit_trace(make):
    model = nn.Sequential(nn.Conv2d(3, 3, 1), make())
    with torch.no_grad():
        model[1].kappa.add_(0.2)
    traced = torch.jit.trace(model, torch.randn(2, 3, 4, 4))
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    x = torch.randn(5, 3, 7, 4)
    torch.testing.assert_close(torch.jit.load(file)(x), model(x))


@MODULES
@pytest.mark.parametrize("strict", [False, True])
def test_export(make, strict):
    if strict and torch.__version__ < "2.7":
        pytest.skip("torch 2.6 does not take a batch of any size into an autograd.Function")
    model = nn.Sequential(nn.Conv2d(3, 3, 1), make()).eval()
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(model, (torch.randn(3, 3, 4, 4),), strict=strict, dynamic_shapes=({0: batch},))
    x = torch.randn(7, 3, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), model(x))


@MODULES
def test_fx(make):
    model = nn.Sequential(nn.Conv2d(3, 3, 1), make())
    graph = torch.fx.symbolic_trace(model)
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(graph(x), model(x))
    with torch.no_grad():
        model[1].lam.add_(0.5)  # what the graph has is the parameter, not a value of it
    torch.testing.assert_close(graph(x), model(x))
    found = torch.autograd.grad(graph(x).square().sum(), [model[1].kappa, model[1].lam])
    torch.testing.assert_close(found, torch.autograd.grad(model(x).square().sum(), [model[1].kappa, model[1].lam]))


def test_the_written_model_can_be_traced_exported_saved_and_copied():
    model = activations.replace(torchvision().resnet18(num_classes=3)).eval()
    x = images()
    with torch.no_grad():
        wanted = model(x)
        torch.testing.assert_close(torch.jit.trace(model, x)(x), wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(copy.deepcopy(model)(x), wanted)
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        torch.testing.assert_close(torch.load(file, weights_only=False)(x), wanted)
