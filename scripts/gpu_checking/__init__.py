"""The parts of `scripts/gpu_check.py`: its sections, what they share, and the processes that run them."""
