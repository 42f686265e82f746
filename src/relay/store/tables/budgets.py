"""The tables of budgets and of the kill switch."""
