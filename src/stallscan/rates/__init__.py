"""Stall rates of fields, mice and groups, corrected for what a model misses."""
