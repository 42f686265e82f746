"""Looking for credentials where none belong: a folder, what is staged, a whole history."""
