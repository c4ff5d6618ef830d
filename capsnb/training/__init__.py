"""Training: configuration, history, the loop, and its checkpoints. Taught in chapter 4, *A first CapsNet*."""

from capsnb.training.checkpoint import CHECKPOINT, load_weights
from capsnb.training.config import OPTIMIZERS, SCHEDULES, TrainConfig
from capsnb.training.history import Epoch, History
from capsnb.training.loop import fit

__all__ = ["CHECKPOINT", "OPTIMIZERS", "SCHEDULES", "Epoch", "History", "TrainConfig", "fit", "load_weights"]
