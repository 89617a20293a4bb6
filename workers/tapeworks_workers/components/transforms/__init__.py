"""Functions over elements, for `map`."""
