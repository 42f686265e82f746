"""Declare, seal and stamp HTTP routes: the first three locks."""
