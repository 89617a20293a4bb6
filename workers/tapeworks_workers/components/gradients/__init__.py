"""What is done to gradients before they are applied."""
