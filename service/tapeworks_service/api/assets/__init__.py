"""Routes about uploads that specs name: datasets, packages, bundles."""
