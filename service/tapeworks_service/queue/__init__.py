"""The queue: jobs go in, are scheduled and leased, change their state, and end."""
