"""Dispatch of durable work. The tables carry correctness; a queue only wakes those who do it."""
