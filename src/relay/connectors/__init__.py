"""What Relay can act on, one file each. Only the composition root imports these, and none knows of the gate."""
