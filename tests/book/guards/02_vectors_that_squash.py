assert abs(before[radial.argmax()] - 3**-0.5) < 0.02
for I, J, E in sizes:
    for std in (0.01, default_weight_std(I, J, E)):
        assert abs(measured_length(I, J, E, std) / predicted_length(I, J, E, std) - 1) < 0.1

assert mean_lengths["σ = 0.01"][4] == 0 and max(gradient_norms["σ = 0.01"]) == 0  # zero, in float32
assert min(mean_lengths["default σ"]) > 0.3 and min(gradient_norms["default σ"]) > 0
assert mean_lengths["default σ, one iteration"][-1] < 0.1
assert wide_lengths[-1] < 1e-20

accuracies = {name: accuracy for name, (_, accuracy) in runs.items()}
assert accuracies["1 block, σ = 0.01"] < 0.15
assert accuracies["1 block, default σ"] > 0.3
assert min(accuracies["no block, σ = 0.01"], accuracies["no block, default σ"]) > 0.8
