"""The HTML page that shows images with their captions and what the model attended to."""
