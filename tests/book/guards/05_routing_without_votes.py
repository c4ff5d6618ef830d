"""Stored votes or not, the same training: rounding differs, and training amplifies it; nothing else may."""

stored, recomputed = histories["eager"], histories["auto"]
accuracies = [history["test_accuracy"][-1] for history in (stored, recomputed)]
assert abs(stored["loss"][0] - recomputed["loss"][0]) < 0.01 * stored["loss"][0]
assert min(accuracies) > 0.8 and abs(accuracies[0] - accuracies[1]) < 0.03
