"""The one guarded path: admit a request, perform an action."""
