"""A run's folder: its checkpoints, infos, records and histories, and checkpoints of other programs."""
