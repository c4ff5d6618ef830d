assert history["test_accuracy"][-1] > 0.95

# The hidden layers do next to nothing, as the text says.
assert (predictions(shallow) != predictions(model)).float().mean() < 0.02
assert relative_change.mean() < 0.1

assert max(crop_accuracies) > min(crop_accuracies)

assert abs(converted_accuracy[0.05] - source_accuracy) < 0.02
assert tuned_accuracy["gamma 0.9"] > source_accuracy - 0.03
assert accuracy(residual_again) < tuned_accuracy["gamma 0.9"] - 0.05

assert all(finite.values())
assert kept["MoCapsNet    2 hidden layers"] == kept["MoCapsNet   40 hidden layers"]
