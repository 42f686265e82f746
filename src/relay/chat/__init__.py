"""The chat: conversations that call actions as functions, as the caller and along the guarded path."""
