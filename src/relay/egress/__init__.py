"""The only way out for destinations that others choose, and the transports that carry mail."""
