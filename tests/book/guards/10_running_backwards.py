"""What chapter 10 says of its figures and tables: which errors stay small on the way home, and which do not."""

assert farthest < 1e-3  # of the points on the way home from the way out

# The search: lost at full strength, stalled at 0.3, found at 0.1.
full, weaker, weak, _ = (errors[-1] for errors in search_errors.values())
assert full > 0.1 > weaker > 1e-3 > 1e6 * weak

# The mass on a spring comes home at 0.9 and not at 0.5.
assert missed[0.9][0] < 1e-5 and missed[0.5][0] > 1

# Capsules: errors grow far more than by γ^-n; half precision loses everything, float64 next to nothing.
assert errors_by_format["float32"][-1] / errors_by_format["float32"][0] > 1000 * 0.9**-39
assert errors_by_format["float16"][-1] > 0.5 and errors_by_format["float64"][-1] < 1e-6
assert growths_out[-1] > 100
assert 1 / stretch[-1] > 2 / 0.9  # with couplings that move

# Gradients: a state in float32 spoils them, the package's does not.
remembers, undoes, packaged = (errors[-1] for errors in gradient_errors.values())
assert undoes > 50 * remembers and packaged < 3 * remembers
assert all(total_changed[gamma, "moved"] < total_changed[gamma, "rounded"] / 20 for gamma in (0.9, 0.5))
assert float64_errors["40 layers, untrained"][1] < 0.01

assert abs(bits - len(deep) * math.log2(d / n)) < 3  # what the exact way home stores

# Training calms the layers.
assert history["test_accuracy"][-1] > 0.5
assert after[0] < before[0] and after[1] < before[1]
