"""Commands about uploads: datasets, component packages, model bundles."""
