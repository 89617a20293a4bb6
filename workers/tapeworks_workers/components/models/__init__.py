"""Models without code: `sequential`, `functional`, `mlp`, `convnet`."""
