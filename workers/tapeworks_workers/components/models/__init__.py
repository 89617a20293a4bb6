"""Models without code: `sequential`, `graph`, `functional`, `pretrained`, `mlp`, `convnet`."""
