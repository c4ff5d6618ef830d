"""What chapter 8 says of its figures and tables, of outliers, three networks and their memory."""

# How far two outliers turn the house: SDA does not notice, the others do.
assert max(mean_angles["SDA"]) < 15 and min(mean_angles["RBA"][-1], mean_angles["EM"][-1]) > 45

# The three networks have learned to read digits.
assert all(histories[name]["test_accuracy"][-1] > 0.75 for name in ("RBA", "SDA", "EM"))

# In tiles, nothing of the size of the votes is kept.
assert all(kept_tiles < 1 for _, _, kept_tiles, _ in costs.values())
