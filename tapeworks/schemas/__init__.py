"""What the service answers and accepts: jobs, uploads, and the protocol of workers."""
