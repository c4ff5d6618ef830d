assert all(run.accuracy > 0.9 for run in runs)
assert len(all_six) > 100 * if_independent
assert fpr[point] > 0
assert capsnb.evaluate(low_margin, data).accuracy > 0.9
assert lengths(low_margin).max(dim=1).values.mean() < 0.75
assert after < before

# what the text says of the paper's four results and of the stored runs
by_label = {row.label: row for row in paper}
ends, theirs = (
    {
        label: wilson_interval(share(row), 10_000)
        for label, row in by_label.items()
        if share(row) == share(row)
    }
    for share in (lambda row: row.mean, lambda row: row.reported.accuracy)
)
one_gpu, several_gpus = (f"MNIST, AlexCapsNet, {how} epochs" for how in ("one GPU, 10", "several GPUs, 20"))
assert theirs[one_gpu][1] > ends[one_gpu][0] > theirs[one_gpu][0]
assert ends[several_gpus][0] > theirs[several_gpus][1]
assert 0.02 < by_label[several_gpus].mean - by_label[several_gpus].reported.accuracy < 0.025
assert theirs[one_gpu][1] < theirs["MNIST, ResNetCapsNet, one GPU, 20 epochs"][0]
assert theirs[several_gpus][1] < theirs["MNIST, ResNetCapsNet, several GPUs, 10 epochs"][0]
for name in (*p_stored, "ResNetCapsNet, ours"):  # all mistakes are listed
    assert len(misread_stored[name]) == wrong[name].sum()
assert p_stored["AlexCapsNet, ours"] < 1e-3 and p_stored["AlexCapsNet, 44 pixels, ours"] > 0.05
common = {tuple(int(k) for k in pair) for pair in pairs}
assert {(7, 2), (4, 9), (5, 3)} <= common and all(c[p] > 0 for c in wrong.values() for p in common)
assert {int(wrong[label.removeprefix("MNIST, ")][7, 2]) for label in (one_gpu, several_gpus)} == {13, 10}
assert by_accuracy[0] != by_auc[0] and min(areas) > 0.998 and recall > 0.95
assert set(epochs) == {1} and rises <= 1 and max(map(min, losses)) < 0.01
assert 2e6 < res["weights"] < alex["weights"] < 3e6 and res["step"] > 10 * alex["step"]
