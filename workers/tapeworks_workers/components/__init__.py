"""Built-in components, a folder per kind, registered through the same `@component` door as a user's.

Each file stands alone: it imports the standard library, NumPy, TensorFlow, Keras and the public
names of `tapeworks`, since it goes into bundles as it is.
"""
