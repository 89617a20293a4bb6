"""Job specs and components that a user can copy, and the commands that run them."""
