"""Training of the built-in model: the images it learns from, and each part of the network in turn."""
