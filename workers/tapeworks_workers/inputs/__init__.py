"""What jobs read, fetched by the agent: uploads, remote files, rows of queries."""
