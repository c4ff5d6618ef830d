"""Arrays of anybody in one file, and published data sets among them: recognised in any order, refused if changed."""

import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from capsnb.data import Split, data_folder, downloaded, load_data, npz

KEYS = ("x_train", "y_train", "x_test", "y_test")


def images_of(count, height=3, width=2, channels=3, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (count, height, width, channels)).astype(np.uint8)


def some_arrays(**changed):
    made = {
        "x_train": images_of(6),
        "y_train": np.array([0, 1, 2, 0, 1, 2]),
        "x_test": images_of(4, seed=1),
        "y_test": np.array([2, 1, 0, 1]),
    }
    return {key: value for key, value in {**made, **changed}.items() if value is not None}


@pytest.fixture
def written(tmp_path):
    def write(name="pets.npz", **arrays):
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    return write


def labelled_images():
    """Splits with repeated images and labels: few pixels, each of few values."""
    sides = st.tuples(st.integers(1, 12), st.just(1), st.integers(1, 2), st.integers(1, 2))
    return sides.flatmap(
        lambda shape: st.builds(
            lambda images, labels: Split(torch.from_numpy(images), torch.tensor(labels)),
            arrays.arrays(np.uint8, shape, elements=st.integers(0, 2)),
            st.lists(st.integers(0, 2), min_size=shape[0], max_size=shape[0]),
        )
    )


@settings(deadline=None)
@given(split=labelled_images(), draw=st.data())
def test_a_digest_does_not_know_the_order(split, draw):
    order = draw.draw(st.permutations(range(len(split))))
    assert npz.unordered_digest(split) == npz.unordered_digest(split.subset(order))


@settings(deadline=None)
@given(split=labelled_images(), draw=st.data())
def test_a_digest_knows_each_pixel_and_label(split, draw):
    before = npz.unordered_digest(split)
    place = draw.draw(st.integers(0, len(split) - 1))
    change = draw.draw(st.integers(1, 255))
    images, labels = split.images.clone(), split.labels.clone()
    images[place].view(-1)[draw.draw(st.integers(0, images[place].numel() - 1))] += change
    assert npz.unordered_digest(Split(images, split.labels)) != before
    labels[place] += change
    assert npz.unordered_digest(Split(split.images, labels)) != before


@settings(deadline=None)
@given(split=labelled_images(), draw=st.data())
def test_digests_are_equal_exactly_for_the_same_labelled_images(split, draw):
    """Against the slow definition, sorted lists; indices are drawn with repetition, so that pairs come and go."""

    def listed(split):
        return sorted(
            (bytes(i), label) for i, label in zip(split.images.numpy(), split.labels.tolist(), strict=True)
        )

    chosen = draw.draw(st.lists(st.integers(0, len(split) - 1), min_size=1, max_size=len(split)))
    other = split.subset(chosen)
    assert (npz.unordered_digest(split) == npz.unordered_digest(other)) == (listed(split) == listed(other))


def test_a_digest_knows_the_shape():
    images = torch.zeros(2, 1, 4, 2, dtype=torch.uint8)
    wide = Split(images.view(2, 1, 2, 4), torch.zeros(2, dtype=torch.int64))
    assert npz.unordered_digest(Split(images, wide.labels)) != npz.unordered_digest(wide)


@settings(max_examples=60, deadline=None)
@given(draw=st.data())
def test_what_was_written_is_read(tmp_path_factory, draw):
    """Any number and size of images, any type of label, each order in memory, packed or not."""
    path = tmp_path_factory.mktemp("made") / "any.npz"
    side, channels = st.integers(1, 5), draw.draw(st.sampled_from([None, 1, 3]))
    image = (draw.draw(side), draw.draw(side), *([] if channels is None else [channels]))
    kind = draw.draw(st.sampled_from(["u1", "i1", "<i4", ">i8", "<u8"]))
    made, classes = {}, ("cat", "dog", "été")
    for part in ("train", "test"):
        count = draw.draw(st.integers(1, 7))
        pixels = draw.draw(arrays.arrays(np.uint8, (count, *image)))
        labels = np.array(draw.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)))
        made[part] = pixels, labels
    column, fortran = draw.draw(st.booleans()), draw.draw(st.booleans())
    stored = {"classes": np.array(classes)}
    for part, (pixels, labels) in made.items():
        stored[f"x_{part}"] = np.asfortranarray(pixels) if fortran else pixels
        stored[f"y_{part}"] = labels.astype(kind)[:, None] if column else labels.astype(kind)
    draw.draw(st.sampled_from([np.savez, np.savez_compressed]))(path, **stored)
    data = load_data(f"npz:{path}")
    assert (data.name, data.classes) == ("npz:any", classes)
    for part, (pixels, labels) in made.items():
        split = getattr(data, part)
        expected = pixels[..., None] if pixels.ndim == 3 else pixels
        assert split.images.is_contiguous() and split.labels.tolist() == labels.tolist()
        assert np.array_equal(split.images.permute(0, 2, 3, 1), expected)


def test_more_images_than_are_turned_at_a_time(written):
    pixels = images_of(2500)
    data = load_data(f"npz:{written(**some_arrays(x_train=pixels, y_train=np.arange(2500) % 3))}")
    assert np.array_equal(data.train.images.permute(0, 2, 3, 1), pixels)


def test_classes_without_names_are_numbers(written, monkeypatch):
    path = written(**some_arrays())
    monkeypatch.chdir(path.parent)
    for data in (load_data(f"npz:{path}"), load_data("npz:pets.npz"), load_data("npz:pets.npz", path.parent)):
        assert data.classes == ("0", "1", "2")


FLOATS = images_of(6) / 255
LABELS = np.array([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (
            {"y_train": None},
            "holds no y_train: an .npz file of images is one with the arrays x_train, y_train",
        ),
        ({"x_test": None}, "holds no x_test"),
        ({"x_train": FLOATS}, "x_train is float64, not uint8: whole numbers from 0 to 255"),
        ({"x_train": np.where(FLOATS > 0.5, np.nan, FLOATS)}, "x_train is float64, not uint8"),
        ({"x_test": images_of(4).astype(np.int16) - 300}, "x_test is int16, not uint8"),
        ({"x_train": images_of(6)[:, 0, 0]}, r"x_train is \[6, 3\], not \[N, H, W\], "),
        ({"x_train": images_of(6)[..., None]}, r"x_train is \[6, 3, 2, 3, 1\], not"),
        (
            {"x_train": images_of(6).transpose(0, 3, 1, 2)},
            r"x_train is \[6, 3, 3, 2\]",
        ),
        ({"x_train": images_of(6)[:, :0]}, r"x_train is \[6, 0, 2, 3\]"),
        ({"x_test": images_of(0), "y_test": LABELS[:0]}, r"x_test is \[0, 3, 2, 3\]"),
        ({"y_train": LABELS[:5]}, "x_train with y_train: 6 images but 5 labels"),
        ({"y_train": LABELS / 1}, r"y_train is float64 \[6\], not class numbers"),
        ({"y_test": np.array([0, np.nan, 1, 2])}, r"y_test is float64 \[4\], not class numbers"),
        ({"y_train": np.eye(3, dtype=int)[LABELS]}, r"y_train is int64 \[6, 3\]"),
        ({"y_train": LABELS[None]}, r"y_train is int64 \[1, 6\]"),
        ({"y_train": np.array(3)}, r"y_train is int64 \[\]"),
        ({"y_train": LABELS.astype("U")}, "y_train is <U21"),
        (
            {"y_train": LABELS - 1},
            r"the 4 labels of y_train and y_test are -1 to 2: count them from",
        ),
        (
            {"y_train": LABELS + 1, "y_test": LABELS[:4] + 1},
            "the 3 labels of y_train and y_test are 1 to 3: count",
        ),
        ({"y_train": LABELS * 10**12}, "are 0 to 2000000000000: count"),
        (
            {"y_train": LABELS - 1, "classes": np.array(["a", "b", "c"])},
            "x_train with y_train: label -1 is outside 0 to 2",
        ),
        ({"classes": np.array(["a", "b"])}, "x_train with y_train: label 2 is outside 0 to 1"),
        (
            {"y_test": np.array([0, 1, 2, 2**64 - 1], np.uint64), "classes": np.array(["a", "b", "c"])},
            "x_test with y_test: label -1 is outside",
        ),
        ({"classes": np.arange(3)}, "classes must be a row of names"),
        ({"classes": np.array([["a", "b", "c"]])}, "classes must be a row of names"),
        ({"classes": np.array(["a", "b\nc", "d"])}, "classes must be a row of names, text of one line"),
        ({"classes": np.array(["a", "\ud800", "d"])}, "classes must be a row of names"),
        ({"classes": np.array(["a", "", "d"])}, "classes must be a row of names"),
    ],
)
def test_an_array_that_does_not_fit_is_named(written, changed, says):
    path = written(**some_arrays(**changed))
    with pytest.raises(ValueError, match=says) as caught:
        load_data(f"npz:{path}")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("images", "shape"), [(images_of(4, 2, 2), "3, 2, 2"), (images_of(4)[..., 0], "1, 3, 2")]
)
def test_images_of_two_shapes_are_refused(written, images, shape):
    path = written(**some_arrays(x_test=images))
    with pytest.raises(
        ValueError, match=rf"npz:pets: training images are \[3, 3, 2\], test images \[{shape}\]"
    ):
        load_data(f"npz:{path}")


class Trap:
    def __reduce__(self):
        return os.mkdir, ("sprung",)


@pytest.mark.parametrize("key", [*KEYS, "classes"])
def test_objects_are_refused_and_never_unpickled(written, monkeypatch, key):
    monkeypatch.chdir(written().parent)
    path = written(**some_arrays(**{key: np.array([Trap()] * 6, dtype=object)}))
    with pytest.raises(ValueError, match=rf"{key} cannot be read \(Object arrays cannot be loaded") as caught:
        load_data(f"npz:{path}")
    assert str(path) in str(caught.value) and not Path("sprung").exists()


@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps(Trap()), None])
def test_another_kind_of_file_is_refused(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "pets.npz"
    if content is None:  # one array alone
        np.save(tmp_path / "one.npy", images_of(2))
        content = (tmp_path / "one.npy").read_bytes()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"pets\.npz: y_train cannot be read \(this is no \.npz file\)"):
        load_data("npz:pets.npz")
    assert not Path("sprung").exists()
    path.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"there is no file pets\.npz: npz:PATH takes what numpy\.savez wrote"
    ):
        load_data("npz:pets.npz")


def test_a_member_that_is_no_array_is_named(written):
    path = written(**some_arrays(y_train=None))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("y_train", b"0 1 2")
    with pytest.raises(ValueError, match="y_train is"):
        load_data(f"npz:{path}")


@settings(max_examples=150, deadline=None)
@given(draw=st.data())
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damage_is_told_or_harmless(tmp_path_factory, save, draw):
    """A file that was cut, or in which one byte is another: its data as they were, or an error that names it.

    Of an array that is no longer listed nothing is known, so classes may lose their names.
    """
    file = io.BytesIO()
    made = some_arrays(classes=np.array(["a", "b", "c"]))
    save(file, **made)
    whole = bytearray(file.getvalue())
    place = draw.draw(st.integers(0, len(whole) - 1))
    if draw.draw(st.booleans()):
        whole[place] ^= draw.draw(st.integers(1, 255))
    else:
        del whole[place:]
    path = tmp_path_factory.mktemp("damaged") / "some.npz"
    path.write_bytes(whole)
    try:
        data = load_data(f"npz:{path}")
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert data.classes in (("a", "b", "c"), ("0", "1", "2"))
        for part in ("train", "test"):
            split = getattr(data, part)
            assert np.array_equal(split.images.permute(0, 2, 3, 1), made[f"x_{part}"])
            assert np.array_equal(split.labels, made[f"y_{part}"])


def as_published(folder, name, pixels, labels, monkeypatch):
    """Write training and test images, the same, and let their digest be the published one."""
    path = folder / f"{name}.npz"
    np.savez(path, x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    images = torch.from_numpy(pixels.reshape(*pixels.shape[:3], -1)).permute(0, 3, 1, 2).contiguous()
    digest = npz.unordered_digest(Split(images, torch.as_tensor(labels)))
    monkeypatch.setitem(npz.PUBLISHED, name, (digest, digest))
    return path


@settings(max_examples=60, deadline=None)
@given(draw=st.data())
@pytest.mark.parametrize(("name", "classes"), [("mnist", 10), ("cifar10", 10), ("cifar100", 100)])
def test_a_published_set_is_recognised_in_any_order_and_refused_if_changed(
    tmp_path_factory, name, classes, draw
):
    folder = tmp_path_factory.mktemp("published")
    count = draw.draw(st.integers(1, 8))
    pixels = images_of(count, 4, 4, seed=draw.draw(st.integers(0, 9)))
    pixels = pixels[..., 0] if name == "mnist" else pixels
    labels = np.array(draw.draw(st.lists(st.integers(0, classes - 1), min_size=count, max_size=count)))
    with pytest.MonkeyPatch.context() as patched:
        path = as_published(folder, name, pixels, labels, patched)
        arrays = dict(np.load(path))
        for part in ("train", "test"):
            order = draw.draw(st.permutations(range(count)))
            arrays[f"x_{part}"], arrays[f"y_{part}"] = pixels[order], labels[order][:, None]
            shuffled = order
        np.savez(path, **arrays)
        data = load_data(name, folder)
        assert (data.name, len(data.classes)) == (name, classes)
        assert data.test.labels.tolist() == labels[shuffled].tolist()
        key = draw.draw(st.sampled_from(KEYS))
        place = tuple(draw.draw(st.integers(0, size - 1)) for size in arrays[key].shape)
        most = 255 if key.startswith("x") else classes - 1
        others = st.integers(0, most).filter(lambda value: value != arrays[key][place])
        arrays[key][place] = draw.draw(others)
        np.savez(path, **arrays)
        part = key[2:]
        with pytest.raises(
            ValueError, match=f"x_{part} with y_{part} are not those of {name}: an image or a label is"
        ) as caught:
            load_data(name, folder)
        assert str(path) in str(caught.value)
        loose = draw.draw(st.sampled_from(["x", "y"]))
        arrays[f"{loose}_train"] = arrays[f"{loose}_train"][:-1]
        np.savez(path, **arrays)
        with pytest.raises(ValueError, match=r"images but|is \[0"):
            load_data(name, folder)


def test_one_file_stands_for_the_published_ones(tmp_path, monkeypatch):
    assert not set(downloaded(tmp_path)) & {"mnist", "cifar10", "cifar100", "cifar100-coarse"}
    as_published(tmp_path, "cifar100", images_of(2), np.array([0, 99]), monkeypatch)
    (tmp_path / "svhn.npz").touch()  # nobody knows its digest
    assert downloaded(tmp_path) == ["cifar100", "cifar100-coarse"]
    assert load_data("cifar100", tmp_path, download=True).classes[::99] == ("apple", "worm")


# By fine label, from the published labels: not how the package has it.
COARSE = [
    *(4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7),
    *(6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10),
    *(16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16),
    *(12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13),
]


def test_twenty_coarse_classes_of_five_fine_ones(tmp_path, monkeypatch):
    as_published(tmp_path, "cifar100", images_of(100), np.arange(100), monkeypatch)
    fine, coarse = load_data("cifar100", tmp_path), load_data("cifar100-coarse", tmp_path)
    assert coarse.train.labels.tolist() == coarse.test.labels.tolist() == COARSE
    assert coarse.train.labels.bincount().tolist() == [5] * 20
    assert torch.equal(fine.train.images, coarse.train.images)
    assert (coarse.name, len(set(coarse.classes)), len(set(fine.classes))) == ("cifar100-coarse", 20, 100)
    assert fine.classes == tuple(sorted(fine.classes)) and coarse.classes == tuple(sorted(coarse.classes))
    names = {fine.classes[k]: coarse.classes[COARSE[k]] for k in range(100)}
    assert (
        names["maple_tree"] == "trees"
        and names["shark"] == "fish"
        and names["worm"] == "non-insect_invertebrates"
    )


@pytest.fixture(scope="module")
def published_cifar100():
    try:
        return load_data("cifar100")
    except FileNotFoundError:
        pytest.skip(
            "CIFAR-100 is not here: capsnb data cifar100 --download, or name its folder in CAPSNB_DATA"
        )


def test_all_of_cifar100(published_cifar100):
    data = published_cifar100
    assert data.train.labels.bincount().tolist() == [500] * 100
    assert data.test.labels.bincount().tolist() == [100] * 100
    assert [npz.unordered_digest(split) for split in (data.train, data.test)] == [*npz.PUBLISHED["cifar100"]]
    rows = list(map(bytes, data.train.images.numpy()))
    assert len(rows) - len(set(rows)) == 14, "images that are there twice"
    mean = data.train.images.double().mean((0, 2, 3)) / 255
    torch.testing.assert_close(
        mean, torch.tensor([0.50707516, 0.48654887, 0.44091784]).double(), atol=1e-7, rtol=0
    )


def test_coarse_labels_are_those_of_the_published_files(published_cifar100):
    path = data_folder() / "cifar-100-python" / "test"
    if not path.is_file():
        pytest.skip("the published files of CIFAR-100 are not here: capsnb data cifar100 --download")
    published = pickle.loads(path.read_bytes(), encoding="latin1")  # loading has checked its MD5
    assert [COARSE[k] for k in published["fine_labels"]] == published["coarse_labels"]
    assert load_data("cifar100-coarse").test.labels.tolist() == published["coarse_labels"]


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_digests_are_those_of_the_published_files(name):
    try:
        data = load_data(name)
    except FileNotFoundError:
        pytest.skip(f"{name} is not here: capsnb data {name} --download, or name its folder in CAPSNB_DATA")
    assert [npz.unordered_digest(split) for split in (data.train, data.test)] == [*npz.PUBLISHED[name]]
