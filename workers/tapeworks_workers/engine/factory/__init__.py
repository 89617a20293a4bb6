"""From references of a spec to objects: components, files, earlier jobs."""
