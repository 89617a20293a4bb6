"""A worker's side of the queue: leases, heartbeats, records, checkpoints, the end of an attempt."""
