"""The tables of what is received: receivers and verified events."""
