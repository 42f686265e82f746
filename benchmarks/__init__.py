"""How fast the guarded path is, as ratios to a bare FastAPI endpoint measured in the same minute: `make bench`."""
