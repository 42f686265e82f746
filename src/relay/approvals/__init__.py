"""Approvals: who may agree to a step, the decisions, their end by time, and the notices about them."""
