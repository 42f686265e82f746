"""What would stop this installation from being exposed: one registry of checks over facts that are gathered once."""
