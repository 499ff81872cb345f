"""From a number to weights: the training loop and all it needs."""
