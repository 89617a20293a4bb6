"""The training engine: everything here runs in a runner, a verifier or an admission child, with TensorFlow."""
