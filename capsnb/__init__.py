"""Capsule networks, from the squash up: the package behind the book."""

from importlib import import_module
from types import ModuleType

from capsnb import checks, plots
from capsnb._version import __version__ as __version__
from capsnb.compat import check_torchvision
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
)
from capsnb.notebook import start_chapter
from capsnb.profiling import summary
from capsnb.progress import progress_bar
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
    "progress_bar",
    "reconstruction_loss",
    "routing_by_agreement",
    "scaled_distance_routing",
    "squash",
    "start_chapter",
    "summary",
]

check_torchvision()  # a torch and a torchvision that do not fit must not surface later as an obscure error


def __getattr__(name: str) -> ModuleType:
    """Import `capsnb.bench` and `capsnb.experiments` when they are first used."""
    if name in ("bench", "experiments"):
        return import_module(f"capsnb.{name}")
    raise AttributeError(f"module 'capsnb' has no attribute {name!r}")
