assert losses["constant"][1] > losses["constant"][0]
assert losses["one_cycle"][-1] < losses["one_cycle"][0]
assert history["test_accuracy"][-1] > 0.9 and history["margin"][-1] < best[0.5][1]
assert (all_sixteen.mean(0) > best_single.mean(0)).all()
