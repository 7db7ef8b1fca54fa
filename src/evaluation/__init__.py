"""The loss of a model on a text."""
