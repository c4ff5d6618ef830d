"""The paper's recipe, value by value; ours differ from it and can be run."""

from dataclasses import asdict, fields

import pytest

from capsnb import Preprocess, TrainConfig, models
from capsnb.experiments import recipes, runs

MODELS = ("AlexCapsNet", "ResNetCapsNet")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("setup", ["single-gpu", "multi-gpu"])
def test_the_papers_recipe(model, setup):
    """Zain and Umar (2025), "Training Configuration"."""
    recipe = recipes.PAPER[model, setup]
    config = asdict(recipe.config)
    many = setup == "multi-gpu"
    assert recipe.model == model and recipe.sizes == {"iterations": 3}
    assert {
        name: config[name] for name in ("batch_size", "learning_rate", "optimizer", "loss", "epochs")
    } == {**{"batch_size": 32, "learning_rate": 1e-3, "optimizer": "adam", "loss": "margin", "epochs": 20}}
    assert (recipe.config.accumulate, recipe.config.precision) == ((4, "fp16") if many else (1, "fp32"))
    rates = [recipe.config.learning_rate_at(epoch) for epoch in range(6)]
    assert rates == pytest.approx([1e-3, 1e-3, 7e-4, 7e-4, 4.9e-4, 4.9e-4])
    stretched = model == "ResNetCapsNet"
    assert recipe.preprocess == Preprocess(
        pad=0, crop=None, rotate=10, resize=78 if stretched else None, standardise=not stretched
    )
    shape = recipe.preprocess.output_shape((1, 28, 28))
    assert shape == getattr(models, model)().image_shape, "the network's own sizes are the paper's"


@pytest.mark.parametrize("made", [recipes.QUICK, recipes.FULL], ids=["quick", "full"])
@pytest.mark.parametrize("model", MODELS)
def test_our_recipes_fit_their_networks(made, model):
    recipe = made[model]
    assert recipe.model == model
    getattr(models, model)(recipe.preprocess.output_shape((1, 28, 28)), **recipe.sizes)
    assert Preprocess(**recipe.preprocess_changes) == recipe.preprocess
    default = Preprocess()
    assert all(value != getattr(default, name) for name, value in recipe.preprocess_changes.items())


def test_heads_are_compared_with_nothing_else_changed():
    found: dict[str, list] = {}
    for run in runs("head-ablation"):
        found.setdefault(run.model, []).append(run)
    assert set(found) == set(MODELS)
    for model, every in found.items():
        recipe = recipes.QUICK[model]
        ways = {(run.sizes.get("head", "capsules"), run.config.loss) for run in every}
        assert ways == {("capsules", "margin"), ("sigmoid", "margin"), ("softmax", "cross_entropy")}
        assert len(every) == len(ways) * 3
        for run in every:
            changed = {
                f.name
                for f in fields(TrainConfig)
                if getattr(run.config, f.name) != getattr(recipe.config, f.name)
            }
            assert changed <= {"seed", "loss"} and Preprocess(**run.preprocess) == recipe.preprocess
            assert {k: v for k, v in run.sizes.items() if k != "head"} == recipe.sizes
