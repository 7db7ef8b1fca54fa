"""The parts of the GPT-2 graph: sizes, attention, layers, loss, gradients, key/value cache."""
