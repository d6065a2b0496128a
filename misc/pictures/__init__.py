"""From image files to regions with features: reading images, detectors, CNNs and their weights."""
