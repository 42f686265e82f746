"""Who is calling: API keys, the credential in a request, and the principals that need none."""
