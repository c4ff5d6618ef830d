"""The collapse and its cures, as the chapter's text tells them."""

# before training: silence with the paper's weights, chaos with the default ones, neither from the identity
lengths, disturbances, likenesses = default.T.tolist()
assert paper[9, 0] == 0
assert min(lengths[1:]) > 0.4
assert disturbances[9] > 0.3 and likenesses[9] < 0.1 < likenesses[0]
assert from_identity[9, 0] > 0.4 and from_identity[9, 1] < 0.02 and from_identity[9, 2] > 0.15
assert abs(silent_loss - 0.81) <= 0.01

# no spread of the weights is alive and calm with the squash and three rounds; some are with one
assert not calm["squash", 3] and calm["squash", 1]

# with three rounds the cut gradient of the first hidden layer is far shorter than the full one, and perpendicular
first_cut, first_full = cut["default, R = 3"][1], full["default, R = 3"][1]
assert abs(torch.cosine_similarity(first_cut, first_full, dim=0)) < 0.2
assert first_full.norm() > 1e3 * first_cut.norm()

# who learns
accuracies = {name: history["test_accuracy"][-1] for name, history in histories.items()}
assert accuracies["default, R = 3"] < 0.25
assert accuracies["times 2, R = 1"] > 0.6
assert accuracies["slope 1, times 0.4, R = 3"] > 0.35
