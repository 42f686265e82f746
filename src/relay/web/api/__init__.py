"""The JSON API, one file per group of routes."""
