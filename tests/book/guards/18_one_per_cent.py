import collections
import itertools

# "the same to four digits", at every depth
starts = [first_numbers(network, n)[0] for network in (ResCapsNet, MoCapsNet) for n in (1, 3, 8)]
assert max(starts) / min(starts) - 1 < 1e-4
assert first_numbers(ResCapsNet, 3)[2] < 1e-8  # below Adam's epsilon

assert woke["mean"] is None and woke["sum"] > 100
assert woke["mean, epsilon 1e-20"] == 15  # "it takes fifteen"
ordered = [doubled[factor] for factor in (1, 2, 4, 8, 16)]
assert all(1.7 < slow / fast < 3.5 for slow, fast in itertools.pairwise(ordered))  # "about two to three"
assert all(doubled[factor] <= control[factor] < 2 * doubled[factor] for factor in control)  # "at most twice"

woken = collections.defaultdict(list)  # at which step, of each cell
for record in study["cells"]:
    if record["cell"]["spread"] == 0.01:
        cell = record["cell"]
        woken[cell["network"], cell["classes"], cell["reduction"]].append(woke_at(record))
assert len(study["cells"]) == 216 and all(len(seeds) == 3 for seeds in woken.values())
for classes in (10, 20, 100):  # "at the same look in every column"
    for reduction in ("sum", "mean"):
        for one, other in (("ResCapsNet", "MoCapsNet"), ("DoubledResCapsNet", "PublishedMoCapsNet")):
            assert woken[one, classes, reduction] == woken[other, classes, reduction]
assert set(woken["ResCapsNet", 100, "sum"]) == {"–"}
assert all(set(woken["ResCapsNet", classes, "mean"]) == {"–"} for classes in (10, 20, 100))
assert "–" not in woken["DoubledCapsNet", 100, "sum"] + woken["DoubledCapsNet", 20, "mean"]
assert set(woken["DoubledCapsNet", 100, "mean"]) == {"–"}


def number(entry):
    return int(entry) // settings["every"]


for classes in (10, 20):  # "agree to within one look, seed by seed": 64 = 8 ** 2
    summed, mean = woken["ResCapsNet", classes, "sum"], woken["DoubledCapsNet", classes, "mean"]
    assert all(abs(number(a) - number(b)) <= 1 for a, b in zip(summed, mean, strict=True))

for J, runs in measured_plateau.items():  # "to a hundredth", "two runs with ten classes"
    losses = [loss for run in runs for loss in run]
    assert abs(statistics.median(losses) - plateau(J)[1]) < 0.01
assert len(measured_plateau[10]) == 2 and min(len(measured_plateau[J]) for J in (20, 100)) > 5


def accuracies(network, classes, spread, reduction="sum"):
    wanted = {"network": network, "classes": classes, "spread": spread, "reduction": reduction}
    return [record["test_accuracy"][-1] for record in select(**wanted)]


DOUBLED = ("PublishedMoCapsNet", "DoubledResCapsNet", "DoubledCapsNet")
for network in DOUBLED:  # "reach 3 to 4 %"
    assert 0.025 < min(accuracies(network, 100, 0.01)) <= max(accuracies(network, 100, 0.01)) < 0.05
for network in ("ResCapsNet", "MoCapsNet"):  # "stay at chance"
    assert max(accuracies(network, 100, 0.01)) < 0.015
for spread, classes, reduction in itertools.product((0.01, 0.3), (10, 20, 100), ("sum", "mean")):
    one, other = (
        statistics.fmean(accuracies(n, classes, spread, reduction)) for n in ("ResCapsNet", "MoCapsNet")
    )
    assert abs(one - other) < 0.02  # "neither ... more than two points"
    assert spread == 0.01 or min(one, other) > 3 / classes
for record in select(spread=None, classes=100):  # "between 2.5 and 8", and "no network learns"
    assert 2.5 < record["looks"]["margin"][0] < 8 and record["test_accuracy"][-1] < 0.02
for classes in (10, 20):  # "MoCapsNet is ahead", "with no layers as with the published MoCapsNet": every seed
    residual = accuracies("ResCapsNet", classes, None)
    for network in ("MoCapsNet", "DoubledCapsNet", "PublishedMoCapsNet"):
        assert all(a < b for a, b in zip(residual, accuracies(network, classes, None), strict=True))
for network in ("DoubledCapsNet", "PublishedMoCapsNet"):  # "begin longer than ResCapsNet's"
    one, other = (
        [at_first(record) for record in select(network=n, classes=10, spread=None, reduction="sum")]
        for n in ("ResCapsNet", network)
    )
    assert all(a < b for a, b in zip(one, other, strict=True))
assert max(map(abs, apart)) < 2
