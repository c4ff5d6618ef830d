"""Break the core on purpose, one line at a time, and see whether its tests notice: python tools/break_core.py [WORD].

Each break is applied to a copy of the checkout, and the tests that should see it run there. Before that they must pass
without a break. With a WORD only breaks whose file or new line holds it are tried. The exit code is 1 if one is not
caught.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("capsnb", "tests", "tools", "conftest.py", "pyproject.toml")
WORKERS, TIMEOUT = 2, 600  # at a time; seconds for the tests of one break

TILED = "tests/test_kernels.py -k (slices_equal_the_definition and fused)"
NATIVE = "tests/test_kernels.py -k (slices_equal_the_definition and native)"
TESTS = {  # of those files of the core whose tests are not called as they are
    "kernels/backend.py": TILED,
    "kernels/fused.py": TILED,
    "kernels/native.py": NATIVE,
    "kernels/routing.cpp": NATIVE,
    "kernels/triton_backend.py": "tests/test_kernels.py -k in_its_interpreter",
    "recomputation.py": "tests/test_reversible.py",
    "models/output.py": "tests/test_models.py",
}

BREAKS = [  # file in capsnb/, a text that stands in it exactly once, what stands there instead
    # squash and its gradient
    ("functional.py", "torch.rsqrt(squared + added(eps))\n    return v", "(1 / (squared.sqrt() + eps))\n    return v"),
    ("functional.py", "v = squared / (1 + squared) *", "v = squared.sqrt() / (1 + squared) *"),
    ("functional.py", " - factor * inverse_length.square() / 2", " - factor * inverse_length.square()"),
    ("functional.py", "s.float() if s.dtype in (torch.float16, torch.bfloat16) else s", "s"),
    # the definitions
    ("routing.py", 'dim=-1)  # c, over J\n        v = squash(torch.einsum("bij,bije->bje", couplings, u_hat))',
     'dim=1)  # c, over J\n        v = squash(torch.einsum("bij,bije->bje", couplings, u_hat))'),
    ("routing.py", "logits = logits + torch.einsum(", "logits = torch.einsum("),
    ("routing.py", "u_hat = votes.detach() if detach and r < iterations else votes", "u_hat = votes"),
    ("routing.py", "d_o, d_p = mean, mean / 2", "d_o, d_p = mean, mean / 3"),
    ("routing.py", "added(FLOOR))).clamp(max=1).sqrt()", "added(FLOOR))).sqrt()"),
    ("routing.py", "variance.log().sum(-1) / 2  # [B, J]", "variance.log().sum(-1)  # [B, J]"),
    # routing without stored votes
    ("kernels/fused.py", "V = V + squash(s)", "V = squash(s)"),
    ("kernels/backend.py", "return (s / J)", "return (s / len(weight))"),
    ("kernels/fused.py", "(votes * V).sum(2).softmax(1)", "(votes * V).sum(2).softmax(0)"),
    ("kernels/fused.py", "s += votes", "s = votes"),
    ("kernels/fused.py", "g = (c[:, :, None] * ds)", "g = (c[:, :, None] ** 0 * ds)"),
    ("kernels/native.py", "[: self.B].contiguous()", "[-self.B :].contiguous()"),
    ("kernels/routing.cpp", "slice = 1; slice < slices; slice++) s[n]", "slice = 1; slice < slices - 1; slice++) s[n]"),
    ("kernels/routing.cpp", "start == 0 ? total : dw[(j * E + e) * D + d] + total", "total"),
    ("kernels/routing.cpp", "V[n] = r ? V[n] + v[n] : v[n]", "V[n] = v[n]"),
    ("kernels/triton_backend.py", 'axis=2), float("-inf"))', "axis=2), 0.0)"),
    ("kernels/triton_backend.py", "dW += tl.dot(", "dW = tl.dot("),
    ("kernels/triton_backend.py", "mask=inside, other=0.0) + _squash(s, 2)", "mask=inside, other=0.0)"),
    ("kernels/triton_backend.py", "if tile == 0:", "if tile == 1:"),
    ("kernels/triton_backend.py", "partial[r % len(partial)]", "partial[0]"),
    ("kernels/triton_backend.py", "options[key].pop(0)", "options[key].clear()"),
    ("kernels/sda_em.py", "return reduce(_added, (function", "return reduce(lambda first, _: first, (function"),
    # layers and networks
    ("layers.py", "(self.capsule_types, self.dim)).transpose(1, 2)",
     "(self.dim, self.capsule_types)).permute(0, 3, 1, 2)"),
    ("layers.py", "add_(gain * J)", "add_(gain)"),
    ("reversible.py", "velocity = (gamma * velocity).add_(f(x), alpha=1 - gamma)",
     "velocity = (gamma * velocity).add_(f(x))"),
    ("reversible.py", "df.mul_(gamma).add_(dx, alpha=1 - gamma)", "df = (1 - gamma) * dx"),
    ("reversible.py", "f(x), alpha=1 - gamma).div_(gamma)", "f(x), alpha=1 - gamma)"),
    ("reversible.py", "x.double(), *layers.tensors", "x, *layers.tensors"),
    ("reversible.py", "(velocity.abs() > MAX_RESIDUE * speed)", "(velocity.abs() > speed.new_tensor(1e9))"),
    ("recomputation.py", "if needs[index] and gradients[index] is None", "if not needs[index]"),
    ("recomputation.py", "_replayed(recorder.rng_states.get(self.number, []), recorder.device)",
     "_replayed([], recorder.device)"),
    ("recomputation.py", "TIE_BREAK = 1 + 2**-26", "TIE_BREAK = 1"),
    ("backbones.py", "torch.relu(x + self.branch(x))", "torch.relu(self.branch(x))"),
    ("models/output.py", "(capsules * mask[:, :, None]).flatten(1)", "capsules.flatten(1)"),
    ("losses.py", "(m_plus - lengths).clamp(min=0).square()", "(m_plus - lengths).clamp(min=0)"),
    ("losses.py", 'reduction="sum") / len(images)', 'reduction="mean")'),
]  # fmt: skip


def tests_of(name: str) -> str:
    """The tests that should see a break of this file."""
    return TESTS.get(name, f"tests/test_{Path(name).name}")


def outcome(name: str, old: str, new: str, scratch: Path) -> str:
    """Run a file's tests on a copy in which `old` is `new`: "passed", "caught", or how pytest ended otherwise."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        for part in COPIED:
            (shutil.copytree if (ROOT / part).is_dir() else shutil.copy)(ROOT / part, Path(folder, part))
        path = Path(folder, "capsnb", name)
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
        files, _, chosen = tests_of(name).partition(" -k ")
        command = [sys.executable, "-m", "pytest", "-qx", "--hypothesis-seed=0", files, "-k", chosen]
        env = {"PYTHONPATH": folder, "CAPSNB_CACHE": str(scratch / "cache"), "OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(  # noqa: S603 - pytest, on a copy of this repository
                command, cwd=folder, env=os.environ | env, capture_output=True, text=True, timeout=TIMEOUT
            )
        except subprocess.TimeoutExpired:
            return "took too long"
    if done.returncode:
        return "caught" if "\nFAILED " in done.stdout else done.stdout[-300:]
    return "passed"


def main(word: str = "") -> int:
    """Try all breaks, print a line for each, and return 1 if one was not caught."""
    breaks = [one for one in BREAKS if word in one[0] or word in one[2]]
    for name, old, _ in BREAKS:
        path = ROOT / "capsnb" / name
        if (times := path.read_text(encoding="utf-8").count(old) if path.exists() else 0) != 1:
            sys.exit(f"capsnb/{name} holds {old!r} {times} times, not once: adapt tools/break_core.py")
    whole = list({tests_of(name): (name, "", "") for name, *_ in breaks}.values())
    caught = 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(WORKERS) as pool:
        outcomes = pool.map(lambda one: outcome(*one, Path(folder)), [*whole, *breaks])
        for (name, *_), found in zip(whole, outcomes, strict=False):
            if found != "passed":
                pool.shutdown(cancel_futures=True)
                sys.exit(f"without a break {tests_of(name)} does not pass: {found}")
        for (name, _, new), found in zip(breaks, outcomes, strict=True):
            caught += found == "caught"
            said = found if found == "caught" else f"NOT CAUGHT ({found})"
            print(f"{said:8} {name:26} {new.splitlines()[0]}", flush=True)
    print(f"{caught} of {len(breaks)} breaks were caught")
    return int(caught < len(breaks))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
