"""What users upload and name in specs: rows that datasets, packages and bundles share."""
