"""From a compiled Keras model to a job spec: `from_keras`."""
