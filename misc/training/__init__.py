"""Losses, rewards, CIDEr-D, optimisers and learning-rate schedules."""
