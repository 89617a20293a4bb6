"""Jobs: what users submit and watch, and the queue that hands them to workers."""
