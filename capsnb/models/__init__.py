"""Whole networks: images in, capsules out. Taught in chapter 4, *A first CapsNet*, and in chapter 14.

`build` makes a network by name.
"""

from __future__ import annotations

from inspect import Parameter, signature
from typing import Any

from capsnb.backbones import CapsuleHead
from capsnb.models.backbone_nets import AlexCapsNet, BackboneNet, ResNetCapsNet, TwoConvCapsNet
from capsnb.models.capsnet import CapsNet, MoCapsNet, ResCapsNet
from capsnb.models.output import CapsuleOutput, Decoder

__all__ = [
    "NETWORKS",
    "AlexCapsNet",
    "BackboneNet",
    "CapsNet",
    "CapsuleOutput",
    "Decoder",
    "MoCapsNet",
    "ResCapsNet",
    "ResNetCapsNet",
    "TwoConvCapsNet",
    "build",
    "constructors",
]

NETWORKS: dict[str, type[CapsNet | BackboneNet]] = {
    network.__name__.lower(): network
    for network in (CapsNet, ResCapsNet, MoCapsNet, AlexCapsNet, ResNetCapsNet, TwoConvCapsNet)
}


def build(name: str, **sizes: Any) -> CapsNet | BackboneNet:
    """Build a network by its name in `NETWORKS`, the only registry of networks.

    Args:
        name: a key of `NETWORKS` in any case, such as "capsnet" or "MoCapsNet".
        sizes: the arguments of the constructor; `image_shape` may be a list, as in a JSON file.

    Returns:
        The network, initialised with random numbers of PyTorch's default generator.

    Raises:
        ValueError: an unknown name, or an argument that this network does not have; the message lists the choices.

    >>> build("MoCapsNet", image_shape=[1, 28, 28], blocks=2, channels=8, capsule_types=2).gamma
    0.9
    """
    if (network := NETWORKS.get(name.lower())) is None:
        raise ValueError(f"unknown model {name!r}; choose one of {', '.join(NETWORKS)}")
    names = _argument_names(network)
    if unknown := sorted(sizes.keys() - names):
        listed = ", ".join(map(repr, unknown))
        raise ValueError(f"{network.__name__} has no argument {listed}; choose from {', '.join(names)}")
    if "image_shape" in sizes:
        sizes["image_shape"] = tuple(sizes["image_shape"])
    return network(**sizes)


def constructors(network: type[CapsNet | BackboneNet]) -> list[type]:
    """The classes whose arguments a network's constructor takes: its own, and the one to which it passes others on.

    >>> [owner.__name__ for owner in constructors(MoCapsNet)]
    ['MoCapsNet', 'CapsNet']
    """
    passed_on_to = CapsNet if issubclass(network, CapsNet) else CapsuleHead
    return list(dict.fromkeys([network, passed_on_to]))


def _argument_names(network: type[CapsNet | BackboneNet]) -> list[str]:
    parameters = {
        name: p for owner in constructors(network) for name, p in signature(owner).parameters.items()
    }
    keywords = (name for name, p in parameters.items() if p.kind is not Parameter.VAR_KEYWORD)
    return [name for name in keywords if name != "in_shape"]  # the network computes it
