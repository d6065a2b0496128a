"""A data set on disk: captions, labels, region features, boxes and grid vectors."""
