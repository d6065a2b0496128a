"""Plain, slow, obviously right versions of what the project does fast.

One image, one caption, one cell at a time; no cache, no batch, no tricks.  The tests hold the
fast paths against these, and `scripts/benchmark.py` times them side by side.
"""
