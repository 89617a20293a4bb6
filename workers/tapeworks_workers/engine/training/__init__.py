"""The training loop: epochs, evaluation, early stopping, checkpoints, callbacks."""
