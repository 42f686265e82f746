"""The database: tables, the one writer, read sessions, and a repository per aggregate."""
