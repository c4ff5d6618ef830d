assert min(factors) < 2.0**126  # steps were left out

assert v_mixed.dtype == torch.float32
assert (v_mixed.double() - v_exact).abs().max() < 1e-5

last = [run["test_accuracy"][-1] for run in precisions.values()]
assert min(last) > 0.6 and abs(last[0] - last[1]) < 0.05

assert one["messages"] == ["process 0: rows 0 to 30"]
assert two["messages"] == ["process 0: rows 0 to 15", "process 1: rows 16 to 30"]

assert unweighted_error > 1e-3 > 1e-9 > weighted_error
assert max(gradient_error.values()) < 1e-12
first, second = (run["loss"] for run in histories.values())
assert abs(first[0] - second[0]) < 1e-3 * first[0]

final = {name: run["test_accuracy"][-1] for name, run in batch_sizes.items()}
assert final["32 images"] > final["256 images"]

assert len(recorded.tape) == 3 and w == 0.5  # a rate of zero that was in a tensor

# what the text says of the paper's two setups
single, several = columns
assert int(several[3]) == 8 * int(single[3]) and single[5] == several[5] == "0.001"
assert round(60_000 / 32) == int(single[4].replace(",", "")) and 7.9 < 1875 / int(several[4]) < 8
backbones = {row.label: row for row in experiments.study_rows("backbones")}
for row in backbones.values():
    assert row.reported.accuracy < 0.98 or "one GPU" in row.label
    assert all(result.hardware["gpu"] and "torchrun" not in result.command for result in row.results)
assert 1.5 < ratio < 2
assert len(backbones["MNIST, AlexCapsNet, several GPUs, 20 epochs"].results) == 1
assert (
    backbones["MNIST, AlexCapsNet, several GPUs, 20 epochs"].mean
    > backbones["MNIST, AlexCapsNet, one GPU, 10 epochs"].mean
)
