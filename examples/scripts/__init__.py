"""Three plain Keras scripts, and the same scripts with `client.fit`: `python -m examples.scripts`."""
