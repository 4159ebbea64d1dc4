"""Models, in Flax NNX."""
