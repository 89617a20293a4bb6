"""Admission: whether a component may enter the catalogue."""
