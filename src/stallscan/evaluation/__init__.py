"""Calls against labels."""
