"""Files: uploads by parts, the store they lie in, downloads."""
