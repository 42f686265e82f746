"""Plans and their runs: what is proposed, what is executed step by step, and who may watch."""
