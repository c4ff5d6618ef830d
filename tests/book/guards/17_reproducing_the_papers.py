assert largest_gradient[0.01] < 1e-8 <= largest_gradient[0.3]

assert all(abs(predicted[name] / measured[name] - 1) < 0.05 for name in makers)
for name, make in kinds.items():
    predicted_sum, fitted_sum = sum(parts(make, 8, 128)), megabytes[name].sum()
    assert abs(fitted_sum / predicted_sum - 1) < 0.02

assert best.mean() > last.mean()

assert problems == []
assert "R = 1" in my_table and "R = 3" in my_table and "not run" not in my_table
assert "damaged or edited" in message

assert gaps and max(map(abs, gaps)) < 1  # "in quick form the two networks learn CIFAR-10 alike"
backbone = {row.label: row for row in study_rows("backbones")}
one, several = (backbone[f"MNIST, AlexCapsNet, {how} epochs"] for how in ("one GPU, 10", "several GPUs, 20"))
assert several.mean > one.mean - 0.003  # "this seed does not lose"
