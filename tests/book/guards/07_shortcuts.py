"""What shortcuts do and what they do not, as the chapter's text tells it."""

# before training: bounded classes, no calm from shortcuts with default weights, silence behind a squashed sum
assert all(lengths.max() <= 1 for lengths in class_lengths.values())
assert per_layer["shortcuts", "default"] > 2
assert abs(per_layer["shortcuts", "0.3"] - 1) < 0.01
assert mean_lengths["squash(x + f(x))"][-1] == 0

# the gradient of a plain network is zero; with the paper's weights it is too small for Adam
assert plain_gradient == 0 < quiet_gradient
assert max(narrow_gradient, wide_gradient) < 1e-8

# who learns
final = {name: history["test_accuracy"][-1] for name, history in histories.items()}
assert min(final["quiet"], final["strong matrices"]) > 0.85
assert chapter.profile == "full" or final["loud"] < 0.5
