"""Zygotes and the processes forked from them: frames, handles, launching."""
