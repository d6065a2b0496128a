"""The built-in data set of drawn shapes: scenes, captions, regions, and the accuracy of stated relations."""
