"""Captioning the images of a split with a model, and validation during training."""
