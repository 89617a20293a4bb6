"""Models: those without code (`sequential`, `graph`, `functional`, `pretrained`), and architectures by name."""
