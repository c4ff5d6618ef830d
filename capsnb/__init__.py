"""Capsule networks, from the squash up: the package behind the book."""

from capsnb import checks, plots
from capsnb._version import __version__ as __version__
from capsnb.data import ImageData, Preprocess, Split, load_data
from capsnb.evaluation import Evaluation, evaluate
from capsnb.functional import squash
from capsnb.layers import PrimaryCapsules, RoutingCapsules
from capsnb.losses import CapsuleLoss, capsule_loss, margin_loss, reconstruction_loss
from capsnb.models import (
    AlexCapsNet,
    BackboneNet,
    CapsNet,
    CapsuleOutput,
    MoCapsNet,
    ResCapsNet,
    ResNetCapsNet,
    summary,
)
from capsnb.notebook import start_chapter
from capsnb.pair import demand_matching_pair
from capsnb.reversible import MomentumCapsules, ResidualCapsules
from capsnb.routing import em_routing, routing_by_agreement, scaled_distance_routing
from capsnb.training import History, TrainConfig, fit

__all__ = [
    "AlexCapsNet",
    "BackboneNet",
    "CapsNet",
    "CapsuleLoss",
    "CapsuleOutput",
    "Evaluation",
    "History",
    "ImageData",
    "MoCapsNet",
    "MomentumCapsules",
    "Preprocess",
    "PrimaryCapsules",
    "ResCapsNet",
    "ResNetCapsNet",
    "ResidualCapsules",
    "RoutingCapsules",
    "Split",
    "TrainConfig",
    "capsule_loss",
    "checks",
    "em_routing",
    "evaluate",
    "fit",
    "load_data",
    "margin_loss",
    "plots",
    "reconstruction_loss",
    "routing_by_agreement",
    "scaled_distance_routing",
    "squash",
    "start_chapter",
    "summary",
]

demand_matching_pair()  # a torch and a torchvision that do not fit must not surface later as an obscure error
