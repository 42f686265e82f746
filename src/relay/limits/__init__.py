"""Rate limits: the table of rules, and the counters behind them, in process or in Redis."""
