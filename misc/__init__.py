"""Pieces that know nothing of options or entry points; each file is what its name says."""
