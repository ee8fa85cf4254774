"""Stall rates of fields, mice and groups, corrected for wrong calls."""
