"""What the preparation scripts share: records of what outputs were made from, worker processes, broken input."""
