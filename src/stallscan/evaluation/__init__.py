"""Measures calls and scores against labels."""
