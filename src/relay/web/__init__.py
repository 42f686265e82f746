"""The HTTP doors: they translate and call the gate."""
