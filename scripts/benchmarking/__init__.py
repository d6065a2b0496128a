"""The parts of `scripts/benchmark.py`: synthetic inputs, workloads, the processes that run them, growth of times."""
