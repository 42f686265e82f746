"""Types without I/O: what the rest of Relay talks about."""
