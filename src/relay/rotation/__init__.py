"""Secrets through their life: which one is used, who holds it, and how one follows another while servers run."""
