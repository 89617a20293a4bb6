"""Registering components: names, config schemas, serialization, and the classes that authors subclass."""
