assert all(histories[name]["test_accuracy"][-1] > 0.85 for name in ("R = 3", "R = 1"))
