"""Unusual use: what keys usually do, and what departs from it. Reports, and never refuses anything."""
