import collections
import itertools

# "the same to four digits", at every depth
starts = [first_numbers(network, n)[0] for network in (ResCapsNet, MoCapsNet) for n in (1, 3, 8)]
assert max(starts) / min(starts) - 1 < 1e-4
assert first_numbers(ResCapsNet, 3)[2] < 1e-8  # below Adam's epsilon

assert woke["mean"] is None and woke["sum"] > 100 > 3 * woke["mean, epsilon 1e-20"]  # "about twenty"
ordered = [doubled[factor] for factor in (1, 2, 4, 8, 16)]
assert all(1.6 < slow / fast < 4 for slow, fast in itertools.pairwise(ordered))  # "two to three and a half"
assert all(
    doubled[factor] <= control[factor] < 2 * doubled[factor] for factor in control
)  # "nearly as early"

settled = collections.defaultdict(list)  # when a network woke, of each cell
for record in study["cells"]:
    if record["cell"]["spread"] == 0.01:
        cell = record["cell"]
        settled[cell["network"], cell["classes"], cell["reduction"]].append(woke_at(record))
assert len(study["cells"]) == 216 and all(len(seeds) == 3 for seeds in settled.values())
for classes in (10, 20, 100):  # "at the same look in every column"
    for reduction in ("sum", "mean"):
        for one, other in (("ResCapsNet", "MoCapsNet"), ("DoubledResCapsNet", "PublishedMoCapsNet")):
            assert settled[one, classes, reduction] == settled[other, classes, reduction]
assert set(settled["ResCapsNet", 100, "sum"]) == {"–"}
assert all(set(settled["ResCapsNet", classes, "mean"]) == {"–"} for classes in (10, 20, 100))
assert "–" not in settled["DoubledCapsNet", 100, "sum"] + settled["DoubledCapsNet", 20, "mean"]
assert set(settled["DoubledCapsNet", 100, "mean"]) == {"–"}

for J, losses in measured_plateau.items():  # "to a hundredth"
    assert abs(statistics.median(losses) - plateau(J)[1]) < 0.01

for reduction in ("sum", "mean"):  # "less than two points apart"
    for classes in (10, 20, 100):
        means = [
            statistics.fmean(
                record["test_accuracy"][-1]
                for record in select(network=network, classes=classes, spread=0.3, reduction=reduction)
            )
            for network in ("ResCapsNet", "MoCapsNet")
        ]
        assert abs(means[0] - means[1]) < 0.02 and min(means) > 3 / classes
for record in select(spread=None, classes=100):  # "above 5", and "at or above the 0.81 of silence"
    assert record["looks"]["margin"][0] > 5 and record["loss"][-1] > 0.8
assert max(map(abs, apart)) < 2


def look(entry):
    return int(entry) // settings["every"]


for classes in (10, 20):  # "agree to within one look, seed by seed": 64 = 8 ** 2
    summed, mean = settled["ResCapsNet", classes, "sum"], settled["DoubledCapsNet", classes, "mean"]
    assert all(abs(look(a) - look(b)) <= 1 for a, b in zip(summed, mean, strict=True))
for classes in (10, 20):  # "MoCapsNet is ahead": every seed, with the sum
    pair = [
        [r["test_accuracy"][-1] for r in select(network=n, classes=classes, spread=None, reduction="sum")]
        for n in ("ResCapsNet", "MoCapsNet")
    ]
    assert all(a < b for a, b in zip(*pair, strict=True))
    nothing = select(network="DoubledCapsNet", classes=classes, spread=None, reduction="sum")
    assert all(a < r["test_accuracy"][-1] for a, r in zip(pair[0], nothing, strict=True))
