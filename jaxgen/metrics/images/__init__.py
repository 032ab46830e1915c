"""The report of a model of images, and the classifier whose features it compares."""
