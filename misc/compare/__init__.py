"""Comparing runs: intervals, paired tests, curves and the report."""
