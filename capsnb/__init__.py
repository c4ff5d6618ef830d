"""Capsule networks, from the squash up: the package behind the book."""

from capsnb import pair

pair.demand_matching_pair()

from capsnb import checks
from capsnb.data import ImageData, Preprocess, Split, load_data
from capsnb.evaluation import Evaluation, evaluate
from capsnb.functional import squash
from capsnb.layers import PrimaryCapsules, RoutingCapsules
from capsnb.losses import CapsuleLoss, capsule_loss, margin_loss, reconstruction_loss
from capsnb.models import CapsNet, CapsuleOutput, summary
from capsnb.notebook import start_chapter
from capsnb.routing import routing_by_agreement
from capsnb.training import History, TrainConfig, fit

from capsnb import plots  # isort: skip

__version__ = "0.1.0"
