"""The agent: one process for each worker machine, without TensorFlow."""
