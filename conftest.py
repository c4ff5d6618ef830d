"""What pytest leaves out: a module whose library is not installed has no doctests that could run.

Test files are not among them: one that cannot be imported is an error, not a test less.
"""

from importlib.util import find_spec

collect_ignore = [] if find_spec("triton") else ["capsnb/kernels/triton_backend.py"]
