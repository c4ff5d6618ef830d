from itertools import pairwise

assert primary_length["default"] < 0.05 < primary_length["kept in size"]
assert max(counts["**parameters**"]) < 3e6
assert time_ratio > 1 or chapter.device == "cuda"
assert lengths.shape == (2, 10)
assert all(images.float().mean() > 0.7 for images in correct.values())
assert changed["training"] > 10 * changed["evaluation"]

# what the text says of the paper's configuration and of the stored curves
assert {str(row.reported) for row in experiments.study_rows("backbones")} == {
    "98.06",
    "98.70",
    "96.28",
    "97.86",
}
assert fields["ResNetCapsNet at 25"][1] - fields["ResNetCapsNet at 25"][0] + 1 == 17
assert small.head.capsules.weight.shape[0] == 144 and count(small) < 6e5
steps_an_epoch = 60_000 / recipes.PAPER["AlexCapsNet", "single-gpu"].config.batch_size
assert steps_an_epoch == 1875 and 0.02 < 0.7**10 < 0.03
assert 15 < 60_000 / 128 * measured_steps["ResNetCapsNet", "auto"]["median"] / 60 < 25
for runs_of_label in (*as_printed.values(), *our_recipe.values()):
    for run in runs_of_label:
        tested, trained_loss = run["test_accuracy"], run["loss"]
        assert tested[0] > 0.9 and trained_loss[-1] < 0.01
        assert all(b < 1.01 * a for a, b in pairwise(trained_loss))
        assert 0 < max(a - b for a, b in pairwise(tested)) < 0.016
longest = as_printed["AlexCapsNet, several GPUs, 20 epochs"][0]
assert longest["loss"][-1] < longest["loss"][9] / 2
assert max(longest["test_accuracy"][9:]) - min(longest["test_accuracy"][9:]) < 1 / 300
