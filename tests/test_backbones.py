"""Backbones give the paper's feature maps, heads fit any of them, and torchvision's lose their classifier."""

import copy

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from capsnb.backbones import (
    AlexBackbone,
    CapsuleHead,
    LinearHead,
    ResidualBlock,
    ResNetBackbone,
    feature_shape,
    make_head,
    torchvision_backbone,
)

HEADS = ("capsules", "sigmoid", "softmax")


def shapes_through(stages, x):
    found = []
    for stage in stages:
        x = stage(x)
        found.append(tuple(x.shape[1:]))
    return found


def test_alex_stage_by_stage():
    convolutions = shapes_through(AlexBackbone(), torch.randn(1, 1, 28, 28))
    ReLUs_follow = [(64, 6, 6)] * 2 + [(64, 2, 2)]
    for width in (192, 384, 256, 256):
        ReLUs_follow += [(width, 2, 2)] * 2
    assert convolutions == ReLUs_follow
    sides = [stage.kernel_size for stage in AlexBackbone() if isinstance(stage, nn.Conv2d)]
    assert sides == [(11, 11), (5, 5), (3, 3), (3, 3), (3, 3)]


@pytest.mark.parametrize("backbone", [AlexBackbone, ResNetBackbone])
def test_features_are_of_order_one_before_anything_is_learned(backbone):
    """Small features would be squared away by the squash, and capsules would begin silent (chapter 2)."""
    torch.manual_seed(0)
    features = backbone()(torch.randn(8, 1, 28, 28))  # as standardised images
    assert 0.05 < features.square().mean() < 5  # the padding of small maps takes some


def test_resnet_stage_by_stage():
    backbone = ResNetBackbone()
    assert shapes_through(backbone, torch.randn(1, 1, 78, 78)) == [(32, 78, 78)] * 6
    branch = backbone[3].branch
    names = [type(stage).__name__ for stage in branch]
    assert names == ["Conv2d", "BatchNorm2d", "ReLU", "Conv2d", "BatchNorm2d"]
    assert [branch[0].kernel_size, branch[3].kernel_size] == [(1, 1), (3, 3)]


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 6))
def test_a_residual_block_adds_its_branch(B, C, side):
    block, x = ResidualBlock(C).eval(), torch.randn(B, C, side, side)
    torch.testing.assert_close(block(x), (x + block.branch(x)).clamp(min=0))
    nn.init.zeros_(block.branch[-1].weight)  # a branch that says nothing
    torch.testing.assert_close(block(x), x.relu())


@given(st.integers(15, 60), st.integers(15, 60), st.sampled_from([1, 3]))
def test_shapes_on_paper_are_shapes_in_fact(H, W, C):
    backbone = AlexBackbone(C, widths=(2, 3, 4, 3, 5))
    assert feature_shape(backbone, (C, H, W)) == backbone(torch.randn(1, C, H, W)).shape[1:]


def test_asking_for_the_shape_changes_nothing():
    backbone = ResNetBackbone(channels=4, blocks=1)
    backbone[1].eval()
    before = copy.deepcopy(backbone.state_dict())
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    assert feature_shape(backbone, (1, 9, 9)) == (4, 9, 9)
    assert torch.equal(torch.rand(3), expected), "random numbers were drawn"
    assert backbone.training and not backbone[1].training
    for name, value in backbone.state_dict().items():
        assert value.device.type == "cpu" and torch.equal(value, before[name])


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"AlexBackbone cannot take images of 1x14x14.*Preprocess\(resize"):
        feature_shape(AlexBackbone(), (1, 14, 14))
    with pytest.raises(ValueError, match="AlexBackbone cannot take images of 3x28x28"):
        feature_shape(AlexBackbone(1), (3, 28, 28))
    with pytest.raises(ValueError, match=r"feature map \[B, C, H, W\], Flatten returns \[B, 8\]"):
        feature_shape(nn.Flatten(), (2, 2, 2))
    for kind in HEADS:
        with pytest.raises(ValueError, match="a feature map of 8x20 is too small for a 9x9 convolution"):
            make_head(kind, (4, 8, 20), 10, capsule_types=1, kernel_size=9)


@given(
    st.sampled_from(HEADS),
    st.integers(1, 3),
    *(st.integers(1, 4) for _ in range(3)),
    *(st.integers(1, 7),) * 2,
)
def test_every_head_fits_every_map(kind, B, C, kernel_size, stride, H, W):
    H, W = H + kernel_size, W + kernel_size
    sizes = {"capsule_types": 2, "capsule_dim": 3, "kernel_size": kernel_size, "stride": stride}
    head = make_head(kind, (C, H, W), 5, **sizes)
    capsules = head(torch.randn(B, C, H, W))
    E = 16 if kind == "capsules" else 1
    assert capsules.shape == (B, 5, E)
    lengths = capsules.norm(dim=-1)
    assert lengths.min() >= 0 and lengths.max() <= 1
    if kind == "softmax":
        torch.testing.assert_close(lengths.sum(1), torch.ones(B))


def test_heads_stand_on_the_same_convolution():
    """All heads see the feature map through a convolution of one size, which the seed fills with the same numbers."""
    weights = []
    for kind in HEADS:
        torch.manual_seed(0)
        head = make_head(kind, (4, 12, 12), 10, capsule_types=2, kernel_size=5, stride=2)
        weights.append(next(m for m in head.modules() if isinstance(m, nn.Conv2d)).weight)
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[0], weights[2])


def test_a_linear_head_is_a_weighted_sum():
    maps = torch.randn(3, 2, 4, 5)
    for activation, function in (("sigmoid", torch.sigmoid), ("softmax", lambda z: z.softmax(1))):
        head = LinearHead((2, 4, 5), classes=6, activation=activation)
        sums = maps.flatten(1) @ head.linear.weight.T + head.linear.bias
        torch.testing.assert_close(head(maps)[:, :, 0], function(sums))
        assert sum(p.numel() for p in head.parameters()) == (2 * 4 * 5 + 1) * 6


def test_heads_refuse_what_they_do_not_have():
    with pytest.raises(ValueError, match="unknown head 'capsule'; choose one of capsules, sigmoid, softmax"):
        make_head("capsule", (4, 2, 2), 10, capsule_types=2)
    with pytest.raises(
        ValueError,
        match="iterations, routing are arguments of a capsule head; leave them out with head='softmax'",
    ):
        make_head("softmax", (4, 2, 2), 10, capsule_types=2, iterations=1, routing="em")
    with pytest.raises(ValueError, match="unknown activation 'tanh'"):
        LinearHead((4, 2, 2), activation="tanh")
    with pytest.raises(ValueError, match="iterations must be 1 or more"):
        CapsuleHead((4, 2, 2), iterations=0)


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
def test_a_torchvision_backbone_is_the_network_without_its_classifier(name, monkeypatch):
    torch.manual_seed(0)
    whole = torchvision.models.get_model(name, weights=None).eval()
    monkeypatch.setattr(torchvision.models, "get_model", lambda *_, **__: whole)
    backbone, images = torchvision_backbone(name).eval(), torch.randn(2, 3, 64, 64)
    features = backbone(images)
    rest = whole.classifier(features) if name != "resnet18" else whole.fc(whole.avgpool(features).flatten(1))
    torch.testing.assert_close(rest.flatten(1), whole(images))
    assert feature_shape(backbone, (3, 64, 64)) == features.shape[1:] and min(features.shape[2:]) > 1


@pytest.mark.parametrize("name", ["alexnet", "mobilenet_v3_small", "regnet_y_400mf", "swin_t"])
def test_grey_images_get_a_first_convolution_of_their_own(name):
    backbone = torchvision_backbone(name, in_channels=1)
    C, H, W = feature_shape(backbone, (1, 64, 64))
    assert C > 100 and 1 <= min(H, W) < 10


def test_torchvision_networks_without_a_feature_map_are_named():
    with pytest.raises(ValueError, match="torchvision has no classifier 'resnet19'; choose one of resnet18"):
        torchvision_backbone("resnet19")
    with pytest.raises(ValueError, match="'vit_b_16' has no feature map before its classifier"):
        torchvision_backbone("vit_b_16")
