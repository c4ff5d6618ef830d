"""What chapter 11 says of its three trained networks: rounding drifts apart, and training does not mind."""

assert losses["forgets"][-1] < 0.8 * losses["forgets"][0]
assert differences["forgets"][0] < 1e-3 and loss_difference < 0.2
assert all(weights[-1] > 10 * weights[0] for weights in differences.values())
