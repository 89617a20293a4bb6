"""For authors of components: a package to start from, and a rehearsal of what a worker will do with it."""
