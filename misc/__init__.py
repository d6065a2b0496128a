"""Rooms of one purpose each; none knows the options or an entry point (see CONTRIBUTING.md)."""
