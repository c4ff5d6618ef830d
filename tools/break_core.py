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
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "book", "results", "_build", "data", "*.ipynb")
WORKERS, TIMEOUT = 2, 600  # at a time; seconds for the tests of one break
PASSED, FAILED = 0, 1  # exit codes of pytest

TESTS = {  # of each file of the core; "-k" chooses those that need no other backend
    "functional.py": "tests/test_functional.py",
    "routing.py": "tests/test_routing.py",
    "kernels/backend.py": "tests/test_kernels.py -k (slices_equal_the_definition and fused)",
    "kernels/fused.py": "tests/test_kernels.py -k (slices_equal_the_definition and fused)",
    "kernels/native.py": "tests/test_kernels.py -k (slices_equal_the_definition and native)",
    "kernels/routing.cpp": "tests/test_kernels.py -k (slices_equal_the_definition and native)",
    "kernels/triton_backend.py": "tests/test_kernels.py -k in_its_interpreter",
    "kernels/sda_em.py": "tests/test_sda_em.py -k equals_the_definition",
    "layers.py": "tests/test_layers.py",
    "reversible.py": "tests/test_reversible.py",
    "backbones.py": "tests/test_backbones.py",
    "models.py": "tests/test_models.py",
    "losses.py": "tests/test_losses.py",
}

BREAKS = [  # file in capsnb/, a text that stands in it exactly once, what stands there instead
    # squash and its gradient
    ("functional.py", "torch.rsqrt(squared + eps)\n    return v", "(1 / (squared.sqrt() + eps))\n    return v"),
    ("functional.py", "v = squared / (1 + squared) * wide", "v = squared.sqrt() / (1 + squared) * wide"),
    ("functional.py", " - factor * root.square() / 2", " - factor * root.square()"),
    ("functional.py", "s.float() if s.dtype in (torch.float16, torch.bfloat16) else s", "s"),
    # the definitions
    ("routing.py", 'dim=-1)  # c, over J\n        v = squash(torch.einsum("bij,bije->bje", couplings, u_hat))',
     'dim=1)  # c, over J\n        v = squash(torch.einsum("bij,bije->bje", couplings, u_hat))'),
    ("routing.py", "logits = logits + torch.einsum(", "logits = torch.einsum("),
    ("routing.py", "u_hat = votes.detach() if detach and r < iterations else votes", "u_hat = votes"),
    ("routing.py", "d_o, d_p = mean, mean / 2", "d_o, d_p = mean, mean / 3"),
    ("routing.py", "EPSILON)).clamp(max=1).sqrt()", "EPSILON)).sqrt()"),
    ("routing.py", "variance.log().sum(-1) / 2  # [B, J]", "variance.log().sum(-1)  # [B, J]"),
    # routing without stored votes
    ("kernels/backend.py", "V = V + squash(s)", "V = squash(s)"),
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
    ("kernels/sda_em.py", "return reduce(_added, (function", "return reduce(lambda first, _: first, (function"),
    # layers and networks
    ("layers.py", "(self.capsule_types, self.dim)).transpose(1, 2)",
     "(self.dim, self.capsule_types)).permute(0, 3, 1, 2)"),
    ("layers.py", "add_(gain * J)", "add_(gain)"),
    ("reversible.py", "velocity.mul_(ctx.gamma).add_(f, alpha=1 - ctx.gamma)", "velocity.mul_(ctx.gamma).add_(f)"),
    ("reversible.py", "df.mul_(ctx.gamma).add_(dx, alpha=1 - ctx.gamma)", "df = dx * (1 - ctx.gamma)"),
    ("reversible.py", "alpha=1 - ctx.gamma).div_(ctx.gamma)", "alpha=1 - ctx.gamma)"),
    ("reversible.py", "_replayed(drawn, x.device)", "_replayed([], x.device)"),
    ("backbones.py", "torch.relu(x + self.branch(x))", "torch.relu(self.branch(x))"),
    ("models.py", "(capsules * chosen[:, :, None]).flatten(1)", "capsules.flatten(1)"),
    ("losses.py", "(m_plus - lengths).clamp(min=0).square()", "(m_plus - lengths).clamp(min=0)"),
    ("losses.py", 'reduction="sum") / len(images)', 'reduction="mean")'),
]  # fmt: skip


def tests_notice(name: str, old: str, new: str, scratch: Path) -> int:
    """Run a file's tests on a copy in which `old` is `new`, and return pytest's exit code."""
    with tempfile.TemporaryDirectory(dir=scratch) as copy:
        shutil.copytree(ROOT, copy, ignore=LEFT_OUT, dirs_exist_ok=True)
        path = Path(copy, "capsnb", name)
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
        files, _, chosen = TESTS[name].partition(" -k ")
        command = [sys.executable, "-m", "pytest", "-qx", "--hypothesis-seed=0", files, "-k", chosen]
        env = {"PYTHONPATH": copy, "CAPSNB_CACHE": str(scratch / "cache"), "OMP_NUM_THREADS": "1"}
        try:
            return subprocess.run(
                command, cwd=copy, env=os.environ | env, stdout=subprocess.DEVNULL, timeout=TIMEOUT
            ).returncode
        except subprocess.TimeoutExpired:
            return -1


def main(word: str = "") -> int:
    """Try all breaks, print a table, and return how many were not caught."""
    breaks = [one for one in BREAKS if word in one[0] or word in one[2]]
    for name, old, _ in BREAKS:
        if (times := (ROOT / "capsnb" / name).read_text(encoding="utf-8").count(old)) != 1:
            sys.exit(
                f"capsnb/{name} holds {old!r} {times} times, not once: adapt BREAKS in tools/break_core.py"
            )
    whole = list({TESTS[name]: (name, "", "") for name, *_ in breaks}.values())
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(WORKERS) as pool:
        codes = list(pool.map(lambda one: tests_notice(*one, Path(folder)), [*whole, *breaks]))
    if wrong := [name for (name, *_), code in zip(whole, codes, strict=False) if code != PASSED]:
        sys.exit(f"without a break these do not pass: {', '.join(TESTS[name] for name in wrong)}")
    missed = 0
    for (name, _, new), code in zip(breaks, codes[len(whole) :], strict=True):
        missed += code != FAILED
        said = "caught" if code == FAILED else f"NOT CAUGHT (pytest ended with {code})"
        print(f"{said:8} {name:26} {new.splitlines()[0]}")
    print(f"{len(breaks) - missed} of {len(breaks)} breaks were caught")
    return missed > 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
