"""The audit log: the one writer of it, reading it, verifying it, signing its head, exporting it."""
