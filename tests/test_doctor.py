"""`capsnb doctor` finds what is there and says what is broken."""

import pytest
from typer.testing import CliRunner

from capsnb import cli
from capsnb.cli import doctor
from capsnb.kernels import native


def answers(*options):
    result = CliRunner().invoke(cli.app, ["doctor", *options])
    return result.exit_code, dict(
        line.split(maxsplit=1) for line in result.output.replace("data sets", "data").splitlines()
    )


def test_a_healthy_installation(tmp_path):
    code, found = answers("--root", str(tmp_path))
    assert code == 0
    assert "capsnb" in found["versions"] and "torch" in found["versions"]
    assert found["data"] == f"mnist5k (looked in {tmp_path})"
    assert found["routing"].startswith("agrees with the definition to ")
    assert found["reversibility"].startswith("gradients agree with stored tensors to ")


@pytest.mark.parametrize(
    ("part", "name"), [("routing_by_agreement", "routing"), ("downloaded", "data"), ("hardware", "hardware")]
)
def test_what_is_broken_is_named_and_the_rest_is_answered(monkeypatch, part, name):
    def broken(*_, **__):
        raise RuntimeError("it is broken\nin many words")

    monkeypatch.setattr(doctor, part, broken)
    code, found = answers()
    assert code == 1
    failed = {key: value for key, value in found.items() if "FAILED" in value}
    assert len(failed) == 1 and list(failed.values()) == ["FAILED: RuntimeError: it is broken"]
    assert next(iter(failed)) == name


def test_data_sets_are_looked_for_and_not_read(tmp_path):
    """Reading CIFAR-10 takes longer than all other answers; whether it is whole is found out where it is used."""
    from capsnb.data import FILES

    for files in FILES.values():
        for path in files(tmp_path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"not read")
    missing = next(iter(FILES["cifar100"](tmp_path)))
    missing.unlink()
    code, found = answers("--root", str(tmp_path))
    assert code == 0
    there = "mnist5k, mnist, fashion-mnist, kmnist, emnist, svhn, cifar10"
    assert found["data"] == f"{there} (looked in {tmp_path})"


def test_what_an_installation_lacks_names_the_doctor(monkeypatch):
    import builtins

    import torch

    from capsnb.compat import check_torchvision

    monkeypatch.setenv("CXX", "no-such-compiler")
    native.library.cache_clear()
    assert "`capsnb doctor`" in native.unavailable(
        torch.device("cpu"), torch.Size((8, 4, 8, 4)), torch.float32
    )
    _, found = answers()
    native.library.cache_clear()
    assert found["kernels"].startswith("plain PyTorch (backend='native' needs a C++ compiler (c++, or the")

    def mismatched(name, *arguments, **named):
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")
        return imported(name, *arguments, **named)

    imported = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", mismatched)
    with pytest.raises(ImportError, match="check it with `capsnb doctor`"):
        check_torchvision()


def test_a_wrong_layer_is_found(monkeypatch):
    monkeypatch.setattr(doctor, "routing_by_agreement", lambda votes, iterations: votes.sum(1))
    code, found = answers()
    assert code == 1 and "away from the definition" in found["routing"]


def test_a_wrong_kernel_is_found(monkeypatch):
    from capsnb.kernels import dispatch

    class Wrong(dispatch.Fused):
        def forward(self, iterations, *, keep_couplings=False):
            v, saved = super().forward(iterations, keep_couplings=keep_couplings)
            return v + 0.1, saved

    monkeypatch.setattr(dispatch, "choose_backend", lambda u, weight, backend: Wrong(u, weight))
    code, found = answers()
    assert code == 1 and "the layer is 1.0e-01 away from the definition" in found["routing"]


@pytest.mark.parametrize(
    "damage", [lambda c: c[: len(c) // 2], lambda c: c[:-40] + b"\x00" + c[-39:], lambda c: b""]
)
def test_a_damaged_kernel_is_compiled_anew(monkeypatch, tmp_path, damage):
    import torch

    monkeypatch.setenv("CAPSNB_CACHE", str(tmp_path))
    native.library.cache_clear()
    if native.library(8, 4, 4, torch.float32) is None:
        pytest.skip("no C++ compiler was found: install one, or name it in the variable CXX")
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    native.library.cache_clear()
    assert native.library(8, 4, 4, torch.float32) is not None
    assert native._is_whole(path)
    native.library.cache_clear()


def test_without_a_home_nothing_is_kept(monkeypatch):
    from pathlib import Path

    def homeless(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("CAPSNB_CACHE", raising=False)
    monkeypatch.setattr(Path, "expanduser", homeless)
    assert native.cache_folder() is None
