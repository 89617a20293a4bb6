"""Export: models, signatures, probes, and the bundle's files."""
