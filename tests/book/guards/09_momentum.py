"""What chapter 9 says of its figures and tables, of balls, crossing paths and five small networks."""

# Without momentum the ball stays on its side of the hill, with enough of it it ends on the other.
assert paths[0].min() > 0.99 and paths[0.95][-1] < -0.5

# Only strong momentum and large steps change the order of the inputs.
assert list(in_order.values()) == [True, True, False, False]

# Pushes of untrained layers are unrelated; sixteen layers at 0.99 hardly turn anything.
assert abs(residual_layers - arrived(16, 0.9).square().sum()) < 1.5
assert cosines["γ = 0.99"][16] > 0.8

# Shorter steps learn faster, with or without inertia; at 0.99 the hidden layers can be taken out.
final = {name: history["test_accuracy"][-1] for name, history in histories.items()}
control = final[f"residual × {mean_share:.2f}"]
assert abs(control - final["γ = 0.9"]) < 0.05 < control - final["residual"]
assert final["residual"] < final["γ = 0.5"] < final["γ = 0.9"] - 0.02
assert final["γ = 0.99"] > final["γ = 0.9"] - 0.02
assert abs(accuracy_without["γ = 0.99"] - final["γ = 0.99"]) < 0.03

# Block by block, eight blocks nearly double the capsules' length each.
assert blocks == 8 and many_length > 2**7 * 0.7
