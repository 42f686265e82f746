"""Webhooks: events to a workspace's endpoints, and signed events from outside."""
