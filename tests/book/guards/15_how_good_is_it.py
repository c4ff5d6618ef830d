assert all(run.accuracy > 0.9 for run in runs)
assert len(all_six) > 100 * if_independent
assert fpr[point] > 0
assert capsnb.evaluate(low_margin, data).accuracy > 0.9
assert lengths(low_margin).max(dim=1).values.mean() < 0.75
assert after < before

# what the text says of the paper's four results and of the stored runs
by_label = {row.label: row for row in paper}
one_gpu = by_label["MNIST, AlexCapsNet, one GPU, 10 epochs"]
several_gpus = by_label["MNIST, AlexCapsNet, several GPUs, 20 epochs"]
ends = {row: wilson_interval(row.mean, 10_000) for row in (one_gpu, several_gpus)}
theirs = {row: wilson_interval(row.reported.accuracy, 10_000) for row in paper}
assert theirs[one_gpu][1] > ends[one_gpu][0] > theirs[one_gpu][0]
assert ends[several_gpus][0] > theirs[several_gpus][1]
assert 0.02 < several_gpus.mean - several_gpus.reported.accuracy < 0.025
assert theirs[one_gpu][1] < theirs[by_label["MNIST, ResNetCapsNet, one GPU, 20 epochs"]][0]
assert theirs[several_gpus][1] < theirs[by_label["MNIST, ResNetCapsNet, several GPUs, 10 epochs"]][0]
for name in (*p_stored, "ResNetCapsNet, ours"):  # all mistakes are listed
    assert len(misread_stored[name]) == wrong[name].sum()
assert p_stored["AlexCapsNet, ours"] < 1e-3 and p_stored["AlexCapsNet, 44 pixels, ours"] > 0.05
common = {tuple(int(k) for k in pair) for pair in pairs}
assert {(7, 2), (4, 9), (5, 3)} <= common and all(c[p] > 0 for c in wrong.values() for p in common)
counts_of_7_as_2 = {int(wrong[row.label.removeprefix("MNIST, ")][7, 2]) for row in (one_gpu, several_gpus)}
assert counts_of_7_as_2 == {13, 10}
assert by_accuracy[0] != by_auc[0] and min(areas) > 0.998 and recall > 0.95
assert set(epochs) == {1} and rises <= 1 and max(map(min, losses)) < 0.01
assert 2e6 < res["weights"] < alex["weights"] < 3e6 and res["step"] > 10 * alex["step"]
