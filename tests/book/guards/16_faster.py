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
