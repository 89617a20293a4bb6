"""The web page: its built files, and the API reference, served from this package."""
