"""torch and torchvision are two packages that must be of one build; this finds a pair that is not."""

from __future__ import annotations

import torch


def demand_matching_pair() -> None:
    """Import torchvision and turn its obscure failure beside a torch of another build into one clear sentence.

    Raises:
        ImportError: torchvision was built for another torch.
    """
    try:
        import torchvision  # noqa: F401
    except ModuleNotFoundError:
        raise
    except (ImportError, RuntimeError, OSError) as error:
        from importlib.metadata import version

        raise ImportError(
            f"torch {torch.__version__} and torchvision {version('torchvision')} do not fit together ({error}); "
            "install a matching pair from one source in one command: pip install --force-reinstall torch torchvision"
        ) from error
