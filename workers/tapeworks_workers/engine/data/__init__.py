"""From `data` of a spec to tf.data datasets."""
