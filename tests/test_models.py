"""Networks: published sizes, what the decoder may see, and gradients everywhere."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from capsnb import (
    AlexCapsNet,
    BackboneNet,
    CapsNet,
    MoCapsNet,
    MomentumCapsules,
    ResCapsNet,
    ResidualCapsules,
    ResNetCapsNet,
    RoutingCapsules,
    TrainConfig,
    capsule_loss,
    evaluate,
    fit,
    load_data,
    margin_loss,
    summary,
)
from capsnb.layers import add_identity_
from capsnb.models import NETWORKS, Decoder, build
from capsnb.training import CHECKPOINT, load_weights

TINY = {"channels": 8, "capsule_types": 2, "decoder": (16,)}
STACKS = {CapsNet: nn.Sequential, ResCapsNet: ResidualCapsules, MoCapsNet: MomentumCapsules}
every_network = pytest.mark.parametrize("network", STACKS)


def test_the_published_sizes():
    model = CapsNet()
    assert model.capsules[0].weight.shape == (1152, 10, 16, 8)
    table = summary(model)
    # Sabour et al. 2017 give 8.2 M parameters: conv 20,992; primary 5,308,672; W 1,474,560; decoder 1,411,344
    assert table.total_params == 20_992 + 5_308_672 + 1_474_560 + 1_411_344
    assert table.total_params == sum(p.numel() for p in model.parameters())
    assert "[1, 1152, 8]" in str(table) and "[1, 10, 16]" in str(table)
    convolutions = 400 * 256 * 81 + 36 * 256 * 81 * 256
    votes, routing = 1152 * 10 * 16 * 8, (3 + 2) * 1152 * 10 * 16  # three sums, two agreements
    assert table.total_mult_adds == convolutions + votes + routing + 160 * 512 + 512 * 1024 + 1024 * 784


def test_summary_leaves_the_model_as_it_was():
    model = CapsNet(**TINY)
    model.decoder.eval()
    modes = [module.training for module in model.modules()]
    first, second = summary(model), summary(model)
    assert first == second
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("image_shape", [(1, 28, 28), (3, 32, 32), (1, 17, 21)])
@pytest.mark.parametrize("blocks", [0, 2])
@every_network
def test_any_image_and_depth(network, image_shape, blocks):
    model = network(image_shape, classes=4, blocks=blocks, hidden_capsules=5, class_dim=6, **TINY)
    output = model(torch.randn(2, *image_shape), torch.tensor([1, 3]))
    assert output.capsules.shape == (2, 4, 6) and output.lengths.shape == (2, 4)
    assert output.reconstruction.shape == (2, *image_shape)
    assert output.reconstruction.min() >= 0 and output.reconstruction.max() <= 1
    if blocks:
        _, hidden, last = model.capsules
        assert type(hidden) is STACKS[network] and len(hidden) == 2 * blocks
    else:
        (last,) = model.capsules
    assert last.weight.shape[1:3] == (4, 6)
    torch.testing.assert_close(output.lengths, output.capsules.norm(dim=-1))


@every_network
def test_every_parameter_gets_a_gradient(network):
    torch.manual_seed(0)
    model = network(blocks=1, hidden_capsules=6, **TINY)
    images, labels = torch.randn(4, 1, 28, 28), torch.tensor([0, 1, 2, 3])
    capsule_loss(model(images, labels), torch.rand(4, 1, 28, 28), labels).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


@every_network
@pytest.mark.parametrize("routing", ["rba", "sda", "em"])
def test_a_step_of_training_with_every_way_to_agree(network, routing):
    model = made(network, routing=routing)
    assert {layer.routing for layer in model.capsule_layers} == {routing}
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    images, labels = torch.randn(4, 1, 28, 28), torch.tensor([0, 1, 2, 3])
    for _ in range(2):  # the second sees what the first has done to the weights
        optimizer.zero_grad()
        loss = capsule_loss(model(images, labels), torch.rand(4, 1, 28, 28), labels).total
        loss.backward()
        assert loss.isfinite()
        for name, parameter in model.named_parameters():
            gradient = parameter.grad
            assert gradient is not None and gradient.isfinite().all() and gradient.any(), name
        optimizer.step()


@pytest.mark.parametrize("routing", ["sda", "em"])
def test_weights_of_other_ways_are_exchanged_as_well(routing):
    residual, momentum = (made(n, routing=routing).eval() for n in (ResCapsNet, MoCapsNet))
    with torch.no_grad():
        for parameter in residual.parameters():
            parameter.mul_(1.1)
    momentum.load_state_dict(residual.state_dict())
    images = torch.randn(2, 1, 28, 28)
    assert not torch.allclose(momentum(images).capsules, residual(images).capsules)
    back = made(ResCapsNet, routing=routing).eval()
    back.load_state_dict(momentum.state_dict())
    assert torch.equal(back(images).capsules, residual(images).capsules)
    with pytest.raises(RuntimeError, match="Missing key"):
        momentum.load_state_dict(made(MoCapsNet).state_dict())


def test_the_decoder_sees_the_labelled_capsule_alone():
    decoder = Decoder(classes=3, dim=4, image_shape=(1, 5, 5), hidden=(8,))
    capsules, labels = torch.randn(2, 3, 4), torch.tensor([0, 2])
    changed = capsules.clone()
    changed[0, 1:], changed[1, :2] = 9.0, 9.0
    torch.testing.assert_close(decoder(capsules, labels), decoder(changed, labels))
    changed[0, 0] += 1
    assert not torch.allclose(decoder(capsules, labels)[0], decoder(changed, labels)[0])


def test_without_labels_the_longest_capsule_is_drawn():
    model = CapsNet(**TINY).eval()
    images = torch.randn(3, 1, 28, 28)
    guessed = model(images)
    told = model(images, guessed.lengths.argmax(dim=1))
    torch.testing.assert_close(guessed.reconstruction, told.reconstruction)
    other = model(images, (guessed.lengths.argmax(dim=1) + 1) % 10)
    assert not torch.allclose(guessed.reconstruction, other.reconstruction)


def test_weight_std_reaches_every_capsule_layer():
    model = CapsNet(blocks=1, weight_std=0.01, **TINY)
    layers = [module for module in model.modules() if isinstance(module, RoutingCapsules)]
    assert len(layers) == 4
    for layer in layers:
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.1)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="16x28 pixels are too small"):
        CapsNet((1, 16, 28))
    with pytest.raises(ValueError, match="blocks must be 0 or more, got -1"):
        CapsNet(blocks=-1)
    with pytest.raises(ValueError, match=r"\[B, 1, 28, 28\] are expected, got \(2, 3, 28, 28\)"):
        CapsNet(**TINY)(torch.randn(2, 3, 28, 28))
    with pytest.raises(ValueError, match="Linear has no image_shape"):
        summary(nn.Linear(3, 4))


def test_what_is_computed_again_saves_memory_and_changes_nothing():
    from capsnb.profiling import saved_bytes

    images, labels = torch.randn(4, 1, 28, 28), torch.arange(4)
    gradients, kept, arithmetic = [], [], []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = CapsNet(channels=16, capsule_types=2, recompute=recompute, backend="fused")
        kept.append(saved_bytes(lambda m=model: m(images, labels), ignore=model.parameters()))
        with FlopCounterMode(display=False) as counter:
            output = model(images, labels)
            loss = output.lengths.sum() + output.reconstruction.sum()
            gradients.append(torch.autograd.grad(loss, list(model.parameters())))
        arithmetic.append(counter.get_total_flops())
    assert kept[0] - kept[1] >= 4 * 16 * 20 * 20 * 4  # the output of the convolution, float32
    first, sums = 2 * 4 * 400 * 16 * 81, 2 * 4 * 72 * 10 * 16
    again = first + 2 * 8 * sums + 3 * sums  # routing's votes twice, sums, and agreements
    assert arithmetic[1] - arithmetic[0] == again, "the primary convolution is not computed again"
    for plain, repeated in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, repeated)


def made(network, **sizes):
    torch.manual_seed(0)
    return network(**{"blocks": 1, "hidden_capsules": 6, **TINY, **sizes})


def test_the_three_networks_differ_in_one_thing():
    plain, residual, momentum = (made(network).eval() for network in STACKS)
    images = torch.randn(2, 1, 28, 28)
    for model in (residual, momentum):
        weights = model.state_dict()
        assert list(weights) == list(plain.state_dict())
        assert all(torch.equal(weights[name], value) for name, value in plain.state_dict().items())
    first, hidden, last = plain.capsules
    x = first(plain.primary(torch.relu(plain.conv(images))))
    y = x + hidden[0](x)
    torch.testing.assert_close(residual(images).capsules, last(y + hidden[1](y)))
    velocity = 0.1 * hidden[0](x)
    y = x + velocity
    torch.testing.assert_close(
        momentum(images).capsules, last(y + 0.9 * velocity + 0.1 * hidden[1](y)), rtol=1e-4, atol=1e-5
    )
    assert momentum.capsules[1].gamma == 0.9 and made(MoCapsNet, gamma=0.5).capsules[1].gamma == 0.5


@pytest.mark.parametrize(("source", "target"), [(ResCapsNet, MoCapsNet), (MoCapsNet, ResCapsNet)])
def test_weights_of_one_network_are_weights_of_the_other(source, target):
    trained, images = made(source).eval(), torch.randn(2, 1, 28, 28)
    torch.manual_seed(1)
    other = target(blocks=1, hidden_capsules=6, **TINY).eval()
    other.load_state_dict(trained.state_dict())
    back = made(source).eval()
    with torch.no_grad():
        back.capsules[1][0].weight.zero_()
    back.load_state_dict(other.state_dict())
    assert torch.equal(back(images).capsules, trained(images).capsules)
    assert not torch.allclose(other(images).capsules, trained(images).capsules)


def test_saved_bytes_of_mocapsnet_do_not_grow_with_depth():
    from capsnb.profiling import saved_bytes

    def kept(network, blocks):
        model = made(network, blocks=blocks)
        return saved_bytes(lambda: model(torch.zeros(2, 1, 28, 28)), ignore=model.parameters())

    assert kept(MoCapsNet, 1) == kept(MoCapsNet, 4)
    assert kept(ResCapsNet, 1) < kept(ResCapsNet, 4)


def test_summary_shows_the_stack():
    parts = [line[0].strip() for line in summary(made(MoCapsNet)).layers]
    assert parts[0] == "MoCapsNet"
    assert summary(made(MoCapsNet)).total_params == summary(made(CapsNet)).total_params
    assert summary(made(MoCapsNet)).total_mult_adds == summary(made(ResCapsNet)).total_mult_adds


def test_gamma_is_checked_at_any_depth():
    for blocks in (0, 1):
        with pytest.raises(ValueError, match=r"gamma must be in \(0, 1\], got 0"):
            made(MoCapsNet, blocks=blocks, gamma=0)
    with pytest.raises(ValueError, match="at most 6 layers"):
        made(MoCapsNet, blocks=4, gamma=0.1)


def test_hidden_layers_can_begin_from_the_identity():
    """The same random numbers, and the identity added where capsules stay as many and as large."""
    networks = []
    for gain in (0.0, 2.0):
        torch.manual_seed(0)
        networks.append(CapsNet(blocks=1, hidden_capsules=5, identity=gain, **TINY))
    plain, straight = networks
    for number, (before, after) in enumerate(zip(plain.capsule_layers, straight.capsule_layers, strict=True)):
        if number in (1, 2):
            add_identity_(before, 2.0)
        assert torch.equal(before.weight, after.weight)


BIG = {  # smaller than published, to be fast
    AlexCapsNet: {"image_shape": (1, 20, 23), "widths": (4, 6, 8, 6, 5), "capsule_types": 2},
    ResNetCapsNet: {"image_shape": (1, 17, 20), "channels": 4, "blocks": 2, "capsule_types": 2},
}
with_backbone = pytest.mark.parametrize("network", BIG)
every_head = pytest.mark.parametrize("head", ["capsules", "sigmoid", "softmax"])


def conv(inside, outside, side, bias=True):
    return inside * outside * side**2 + outside * bias


@pytest.mark.parametrize(
    ("network", "features", "primary", "backbone_parameters", "primary_convolution"),
    [
        (
            AlexCapsNet,
            (256, 2, 2),
            32 * 2 * 2,
            conv(1, 64, 11) + conv(64, 192, 5) + conv(192, 384, 3) + conv(384, 256, 3) + conv(256, 256, 3),
            conv(256, 32 * 8, 1),
        ),
        (
            ResNetCapsNet,
            (32, 78, 78),
            16 * 9 * 9,
            # without bias, and two numbers per channel for each of the batch norms
            conv(1, 32, 3, False) + 64 + 3 * (conv(32, 32, 1, False) + 64 + conv(32, 32, 3, False) + 64),
            conv(32, 16 * 8, 9),
        ),
    ],
)
def test_the_second_papers_sizes(network, features, primary, backbone_parameters, primary_convolution):
    model = network()
    images = torch.randn(2, *model.image_shape)
    maps = model.backbone(images)
    assert maps.shape == (2, *features)
    assert model.head.primary(maps).shape == (2, primary, 8)
    assert model.head.capsules.weight.shape == (primary, 10, 16, 8)
    output = model(images)
    assert output.capsules.shape == (2, 10, 16) and output.reconstruction is None
    count = backbone_parameters + primary_convolution + primary * 10 * 16 * 8
    assert summary(model).total_params == count
    assert f"{count:,}" in network.__doc__, "the docstring gives another number of parameters"


@with_backbone
@every_head
def test_every_parameter_behind_a_backbone_gets_a_gradient(network, head):
    torch.manual_seed(0)
    model = network(**BIG[network], head=head, decoder=(16,))
    images, labels = torch.randn(6, *model.image_shape), torch.arange(6)
    output = model(images, labels)
    assert output.reconstruction.shape == images.shape
    capsule_loss(output, torch.rand_like(images), labels).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


@with_backbone
@every_head
def test_without_a_decoder_the_loss_is_the_margin_loss(network, head):
    model = network(**BIG[network], head=head)
    images, labels = torch.randn(4, *model.image_shape), torch.arange(4)
    output = model(images, labels)
    loss = capsule_loss(output, images, labels)
    assert output.reconstruction is None and loss.reconstruction == 0
    assert torch.equal(loss.total, margin_loss(output.lengths, labels))
    torch.testing.assert_close(output.lengths, output.capsules.norm(dim=-1))


@with_backbone
def test_networks_with_other_heads_differ_in_the_head_alone(network):
    made = []
    for head in ("capsules", "softmax"):
        torch.manual_seed(0)
        made.append(network(**BIG[network], head=head))
    for one, other in zip(*(model.backbone.parameters() for model in made), strict=True):
        assert torch.equal(one, other)


@with_backbone
def test_options_reach_the_capsules(network):
    options = {"iterations": 2, "routing": "sda", "backend": "fused", "weight_std": 0.01, "class_dim": 5}
    layer = network(**BIG[network], classes=3, **options).head.capsules
    assert (layer.iterations, layer.routing, layer.backend) == (2, "sda", "fused")
    assert layer.weight.shape[1:3] == (3, 5) and layer.weight.std().item() == pytest.approx(0.01, rel=0.2)


def test_layouts_are_those_that_were_measured():
    alex, resnet = (network(**BIG[network]) for network in BIG)
    last = torch.channels_last
    assert resnet.head.primary.conv.weight.is_contiguous(memory_format=last)
    assert resnet.backbone[3].branch[3].weight.is_contiguous(memory_format=last)
    assert resnet.head.capsules.weight.is_contiguous() and alex.backbone[3].weight.is_contiguous()


def test_images_too_small_for_a_backbone_are_refused():
    with pytest.raises(ValueError, match=r"cannot take images of 1x14x28.*resize them"):
        AlexCapsNet((1, 14, 28))
    with pytest.raises(ValueError, match="a feature map of 8x28 is too small for a 9x9 convolution"):
        ResNetCapsNet((1, 8, 28))
    with pytest.raises(ValueError, match=r"\[B, 1, 78, 78\] are expected, got \(2, 1, 28, 28\)"):
        ResNetCapsNet()(torch.randn(2, 1, 28, 28))


def test_any_backbone_goes_with_any_head():
    from capsnb.backbones import CapsuleHead, feature_shape, torchvision_backbone

    backbone = torchvision_backbone("resnet18", in_channels=1)
    head = CapsuleHead(feature_shape(backbone, (1, 40, 40)), classes=4, capsule_types=2)
    model = BackboneNet((1, 40, 40), backbone, head)
    assert model(torch.randn(2, 1, 40, 40)).capsules.shape == (2, 4, 16)
    assert summary(model).total_params == sum(p.numel() for p in model.parameters())
    with pytest.raises(ValueError, match="Conv2d cannot take images of 1x3x3"):
        BackboneNet((1, 3, 3), nn.Conv2d(1, 2, 5), head)


@pytest.mark.parametrize("name", NETWORKS)
def test_build_refuses_an_argument_that_the_network_does_not_have(name):
    network = NETWORKS[name]
    with pytest.raises(
        ValueError, match=f"{network.__name__} has no argument 'colour', 'depht'; choose from"
    ) as caught:
        build(name, depht=3, colour="red", classes=5)
    listed = str(caught.value).split("choose from ")[1].split(", ")
    assert {"image_shape", "classes", "decoder", "iterations", "weight_std"} <= set(listed)
    assert ("blocks" in listed) == (name not in ("alexcapsnet", "twoconvcapsnet"))
    assert ("gamma" in listed) == (name == "mocapsnet")
    assert ("recompute" in listed) == (name in ("capsnet", "rescapsnet", "mocapsnet"))


@pytest.mark.parametrize("name", NETWORKS)
def test_build_accepts_every_argument_that_it_lists(name):
    with pytest.raises(ValueError, match="choose from") as caught:
        build(name, depht=3)
    listed = str(caught.value).split("choose from ")[1].split(", ")
    values = {
        "image_shape": [1, 40, 40],
        "classes": 3,
        "blocks": 1,
        "channels": 4,
        "capsule_types": 2,
        "capsule_dim": 4,
        "hidden_capsules": 3,
        "class_dim": 4,
        "iterations": 2,
        "routing": "rba",
        "backend": "fused",
        "recompute": True,
        "weight_std": 0.1,
        "identity": 1.0,
        "decoder": (5,),
        "gamma": 0.8,
        "widths": (4, 4, 4, 4, 4),
        "head": "capsules",
        "kernel_size": 1,
        "stride": 1,
    }
    model = build(name, **{argument: values[argument] for argument in listed})
    assert model(torch.randn(2, 1, 40, 40)).capsules.shape == (2, 3, 4)


@with_backbone
def test_fit_evaluate_and_load_weights_take_networks_with_a_backbone(network, tmp_path):
    data = load_data("mnist5k").subset(train=60, test=40).with_preprocess(resize=20)
    sizes = BIG[network] | {"image_shape": (1, 20, 20)}
    model = network(**sizes)
    config = TrainConfig(epochs=1, batch_size=20)
    history = fit(model, data, config, run_dir=tmp_path, progress=False)
    assert history.model == network.__name__ and history["reconstruction"] == [0.0]
    found = evaluate(model, data)
    assert found.accuracy == history["test_accuracy"][-1] and found.reconstruction_error is None
    again = network(**sizes)
    load_weights(again, tmp_path / CHECKPOINT)
    assert evaluate(again, data) == found
