"""The papers' tables as data: what each row reports, and the run that reproduces it.

Shown in the chapter *Reproducing the papers*. MoCapsNet's tables are 1 to 5; "backbones" are the four results of Zain
and Umar (2025).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

from capsnb.experiments import recipes
from capsnb.experiments.run import Run
from capsnb.training import TrainConfig

TRAINABLE_STD = 0.3  # standard deviation of the initial weights; as in the studies of depth
SEEDS = 3  # as in the paper's tables 1 and 2
GPUS = 2  # "multi-GPU" of Zain and Umar, who do not say how many
EPOCHS = {"mnist": 30}  # 60 for the others


@dataclass(frozen=True)
class ReportedAccuracy:
    """The accuracy that a paper reports for a row of a table.

    Attributes:
        accuracy: share of test images, 0 to 1.
        spread: standard deviation over the paper's three runs; None where it gives none.
        source: the paper, and the paper it took the number from.
    """

    accuracy: float
    spread: float | None
    source: str

    def __str__(self) -> str:
        """In per cent, as tables show it."""
        return percent(self.accuracy, self.spread)


def percent(mean: float, spread: float | None = None) -> str:
    """A share, and its spread if there is one, in per cent.

    >>> percent(0.9942, 0.0004), percent(0.9806)
    ('99.42 ± 0.04', '98.06')
    """
    return f"{100 * mean:.2f}" + ("" if spread is None else f" ± {100 * spread:.2f}")


@cache
def paper_numbers() -> dict[str, Any]:
    """All that `assets/papers.json` holds: the rows of each table, slopes of the figures, sources."""
    return json.loads((files("capsnb") / "assets" / "papers.json").read_text(encoding="utf-8"))


def table1() -> Iterator[Run]:
    """MoCapsNet's table 1: 1 to 8 blocks on MNIST and SVHN, three seeds."""
    return _table_runs("table1")


def table2() -> Iterator[Run]:
    """MoCapsNet's table 2: 1 to 8 blocks on CIFAR-10 and CIFAR-100, three seeds."""
    return _table_runs("table2")


def table3() -> Iterator[Run]:
    """MoCapsNet's table 3: optimizers and kinds of routing on CIFAR-10, beside the networks of Xi et al. (2017)."""
    return _table_runs("table3")


def table5() -> Iterator[Run]:
    """MoCapsNet's table 5: learning rates, capsules and batch sizes on CIFAR-10."""
    return _table_runs("table5")


def backbones() -> Iterator[Run]:
    """The four results of Zain and Umar (2025): AlexCapsNet and ResNetCapsNet, on one GPU and on several."""
    return _table_runs("backbones")


TABLES: dict[str, Callable[[], Iterator[Run]]] = {
    "table1": table1,
    "table2": table2,
    "table3": table3,
    "table5": table5,
    "backbones": backbones,
}


def with_trainable_initialisation(table: str) -> Iterator[Run]:
    """The rows of a table with another initialisation, one from which our networks learn.

    With N(0, 0.01^2), as MoCapsNet's paper prints it, class capsules are 1e-10 long before training, at full width too,
    and gradients are a hundredth of Adam's epsilon: measured in chapter 17. The loss is the mean over images instead of
    their sum, which Adam does not see from such weights. Everything else is as printed.
    """
    for run in TABLES[table]():
        weight_std = None if run.sizes.get("routing") == "sda" else TRAINABLE_STD
        sizes = run.sizes | ({"weight_std": weight_std} if "weight_std" in run.sizes else {})
        config = replace(run.config, reduction="mean")
        yield replace(run, study=f"{table}-trainable", sizes=sizes, config=config)


def quick(table: str) -> Iterator[Run]:
    """The rows of a table in small: narrow networks, few images, eight epochs; minutes on two cores.

    The initialisation is that of `with_trainable_initialisation`.
    """
    for run in with_trainable_initialisation(table):
        yield in_small(run, f"{table}-quick", usual_rate=1e-2 if table == "table5" else 1e-3)


def in_small(run: Run, study: str, usual_rate: float) -> Run:
    """A run in small: a narrow network, few images, eight epochs.

    What it is about stays as it is: depth, optimizer, routing, capsules, the size of the images.

    Args:
        run: at full size.
        study: that the small run belongs to.
        usual_rate: the learning rate of most runs of the study; others keep their ratio to it.
    """
    small = recipes.QUICK.get(run.model)
    data = {"data": "mnist5k"} if run.data == "mnist" else {"images": 4000}
    if small is not None:
        config = replace(small.config, seed=run.config.seed, accumulate=run.config.accumulate)
        preprocess = small.preprocess_changes | {
            name: pixels for name, pixels in run.preprocess.items() if name == "resize"
        }
    else:
        config = replace(
            recipes.NARROW_QUICK,
            seed=run.config.seed,
            optimizer=run.config.optimizer,
            batch_size=run.config.batch_size // 2,
            learning_rate=recipes.NARROW_QUICK.learning_rate * run.config.learning_rate / usual_rate,
        )
        preprocess = recipes.ROTATED
    sizes = run.sizes | (recipes.NARROW if small is None else {})
    return replace(run, study=study, config=config, sizes=sizes, preprocess=preprocess, **data)


def reported_accuracies(table: str) -> dict[str, ReportedAccuracy]:
    """What the paper reports, by the rows' labels."""
    source = paper_numbers()["sources"]["backbones" if table == "backbones" else "mocapsnet"]
    reported = {}
    for record in paper_numbers()[table]:
        value = record["accuracy_percent"]
        mean, spread = (value["mean"], value["std"]) if isinstance(value, dict) else (value, None)
        where = record.get("source", "this paper")
        cited = source if where == "this paper" else f"{source}, quoting {where}"
        reported[_label(record)] = ReportedAccuracy(
            mean / 100, None if spread is None else spread / 100, cited
        )
    return reported


def _table_runs(table: str) -> Iterator[Run]:
    for record in paper_numbers()[table]:
        for seed in range(SEEDS):
            yield _run(table, record, seed)


def _run(table: str, record: dict[str, Any], seed: int) -> Run:
    label, name, data = _label(record), record["model"], record.get("dataset", "mnist")
    if table == "backbones":
        recipe = recipes.PAPER[name, record["setup"]]
        gpus = GPUS if record["setup"] == "multi-gpu" else 1
        config = replace(
            recipe.config, seed=seed, epochs=record["epochs"], batch_size=gpus * recipe.config.batch_size
        )
        return Run(table, label, name, recipe.sizes, config, data, recipe.preprocess_changes)
    config = TrainConfig(
        epochs=record.get("epochs", EPOCHS.get(data, 60)),
        batch_size=record.get("batch_size", 128),
        # Of Ranger21 the paper gives a learning rate with table 5 alone.
        learning_rate=record.get("learning_rate", 1e-2 if record["optimizer"] == "ranger21" else 1e-3),
        optimizer=record["optimizer"],
        seed=seed,
        reduction="sum",  # as in the published code; the paper does not say
    )
    sizes: dict[str, Any] = {"weight_std": 0.01}
    if record["blocks"] is not None:
        sizes |= {"blocks": record["blocks"]}
    if record.get("routing", "rba") != "rba":
        sizes |= {"routing": record["routing"]}
    if "capsules" in record:
        sizes |= {"hidden_capsules": record["capsules"]}
    model = "TwoConvCapsNet" if "2-Conv" in name else name
    return Run(table, label, model, sizes, config, data, members=4 if "ensemble" in name else 1)


def _label(record: dict[str, Any]) -> str:
    """What is special about a row, in words; no two rows of a table share it."""
    parts = [recipes.DATA[record.get("dataset", "mnist")], record["model"]]
    if "setup" in record:
        parts += [
            "one GPU" if record["setup"] == "single-gpu" else "several GPUs",
            f"{record['epochs']} epochs",
        ]
    elif "capsules" in record:
        parts += [
            f"learning rate {record['learning_rate']}",
            f"{record['capsules']} capsules",
            f"batches of {record['batch_size']}",
        ]
    else:
        if record["blocks"] is not None:
            parts.append(f"{record['blocks']} block{'s' * (record['blocks'] > 1)}")
        if (record["optimizer"], record["routing"]) != ("adam", "rba"):
            parts += [record["optimizer"].capitalize(), record["routing"].upper()]
    return ", ".join(parts)
