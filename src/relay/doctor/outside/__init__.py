"""A live deployment as a stranger finds it: what is asked, and what the answers are judged by."""
