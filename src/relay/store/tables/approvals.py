"""The tables of approvals: requests, decisions, and the notices that go out about them."""
