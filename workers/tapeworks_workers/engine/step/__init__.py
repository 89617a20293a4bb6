"""The training step: assembly, losses, metrics, gradients, and the compiled functions."""
