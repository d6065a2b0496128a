"""Captions in the forms that people have them, and the split file that they become."""
