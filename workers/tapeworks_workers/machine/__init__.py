"""The worker's devices, and its cache of compiled programs."""
