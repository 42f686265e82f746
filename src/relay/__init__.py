"""Relay: a self-hosted gateway between agents and the accounts they act on."""

__version__ = "0.1.0"
