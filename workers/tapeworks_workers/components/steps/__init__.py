"""How a batch trains the models."""
