"""The parts of `tools/gpu.py` that measure; each runs in a process of its own: python -m gpu_check PART ..."""
