"""Models by role: built, adapted, assigned to optimizers, started from earlier weights."""
