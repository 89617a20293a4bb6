"""Everything that depends on the internals of TensorFlow's and Keras' graphs."""
