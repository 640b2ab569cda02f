"""Grad-CAM against what it is for a linear classifier in closed form, against captum where it is installed, and by hand."""

import pytest
import torch

from labkit import heads
from labkit.vision import backbones, outputs


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return backbones.create("se_resnet32", features_only=True, activation="aglu", gate="apa"), torch.randn(3, 3, 32, 32)


def test_for_a_linear_classifier_it_is_the_class_activation_map(network):
    # Zhou et al. 2016: with an average over 8×8 pixels before it, the gradient to every pixel is w_c/64.
    backbone, images = network
    head = heads.make("standard_no_norm", 64, 10)
    maps, classes = outputs.grad_cam(backbone, head, images)
    with torch.no_grad():
        last = backbone.forward_features(images)
        guess = head(last.mean((-2, -1))).argmax(-1)
        cam = torch.einsum("nkhw,nk->nhw", last, head.weight[guess]) / 64
    assert torch.equal(classes, guess) and maps.shape == (3, 8, 8)
    torch.testing.assert_close(maps, cam.clamp(min=0), rtol=1e-4, atol=1e-7)


def test_a_head_on_the_sphere_by_finite_differences(network):
    backbone, images = network[0].double(), network[1].double()
    head = heads.make("cosine", 64, 10, 16.0).double()
    wanted = torch.tensor([3, 1, 4])
    maps, classes = outputs.grad_cam(backbone, head, images, wanted)
    with torch.no_grad():
        last = backbone.forward_features(images)
        z, step = last.mean((-2, -1)), 1e-6
        slope = [
            (head(z + step * e).gather(-1, wanted[:, None]) - head(z - step * e).gather(-1, wanted[:, None]))
            / (2 * step)
            for e in torch.eye(64).double()
        ]
    by_hand = torch.einsum("nkhw,nk->nhw", last, torch.cat(slope, -1)) / 64
    assert torch.equal(classes, wanted)
    torch.testing.assert_close(maps, by_hand.clamp(min=0), rtol=1e-5, atol=1e-9)
    network[0].float()


def test_captum_agrees(network):
    attr = pytest.importorskip("captum.attr")
    backbone, images = network
    head = heads.make("cosine", 64, 10, 16.0, fused=False)
    maps, classes = outputs.grad_cam(backbone, head, images)
    model = torch.nn.Sequential(backbone, head)
    theirs = attr.LayerGradCam(model, backbone.layer3).attribute(images, classes, relu_attributions=True)
    torch.testing.assert_close(maps, theirs.detach().squeeze(1), rtol=1e-4, atol=1e-7)


def test_what_has_no_maps_is_refused():
    with pytest.raises(TypeError, match="needs a network with maps, such as a ResNet; got a Linear"):
        outputs.grad_cam(torch.nn.Linear(2, 2), heads.make("cosine", 2, 2), torch.zeros(1, 2))
    vit = backbones.create("vit_tiny", features_only=True, stem="cifar", image_size=32)
    with pytest.raises(TypeError, match=r"needs maps \(n, features, height, width\), got \(1, 65, 192\)"):
        outputs.grad_cam(vit, heads.make("cosine", 192, 2), torch.zeros(1, 3, 32, 32))
    swin = backbones.create("swin_mini", stem="cifar", image_size=32)  # maps (n, height, width, channels)
    with pytest.raises(TypeError, match="needs maps .*, got"):
        outputs.grad_cam(swin, heads.make("cosine", 128, 10), torch.zeros(1, 3, 32, 32))
