assert all(run.accuracy > 0.9 for run in runs)
assert len(all_six) > 100 * if_independent
assert fpr[point] > 0
assert capsnb.evaluate(low_margin, data).accuracy > 0.9
assert lengths(low_margin).max(dim=1).values.mean() < 0.75
assert after < before
