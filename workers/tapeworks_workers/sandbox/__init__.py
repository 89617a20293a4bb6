"""The sandbox of uploaded code: isolation, limits, and the pool of warm sandboxes."""
