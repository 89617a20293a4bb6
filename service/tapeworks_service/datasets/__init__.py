"""Uploaded data: files and archives, looked at by a worker."""
