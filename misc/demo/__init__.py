"""The built-in data set of drawn shapes: scenes, regions, captions, and whether captions state positions right."""
