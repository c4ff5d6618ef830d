assert largest_gradient[0.01] < 1e-8 <= largest_gradient[0.3]

assert all(abs(predicted[name] / measured[name] - 1) < 0.05 for name in makers)
for name, make in kinds.items():
    predicted_sum, fitted_sum = sum(parts(make, 8, 128)), megabytes[name].sum()
    assert abs(fitted_sum / predicted_sum - 1) < 0.02

assert best.mean() > last.mean()

assert problems == []
assert "R = 1" in my_table and "R = 3" in my_table and "not run" not in my_table
assert "damaged or edited" in message

assert {dataset: len(found) for dataset, found in gaps.items()} == {"CIFAR-10": 8, "CIFAR-100": 8}
assert max(map(abs, gaps["CIFAR-10"])) < 0.25  # "within a quarter of a point"
assert max(map(abs, gaps["CIFAR-100"])) < 1.5  # "within a point and a half"
backbone = {row.label: row for row in study_rows("backbones")}
one, several = (backbone[f"MNIST, AlexCapsNet, {how} epochs"] for how in ("one GPU, 10", "several GPUs, 20"))
assert several.mean > one.mean - 0.003  # "this seed does not lose"

assert 0.8 < traced / bench.slope(depths, mb["mnist", "(Res)CapsNet"]) < 0.9  # "eight to nine tenths"
assert 0.8 < traced / bench.slope(depths, mb["cifar10", "(Res)CapsNet"]) < 0.9
assert round(papers_more / more) == 3  # "three sets"
