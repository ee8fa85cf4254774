"""Time series at one depth: when each segment stands still, and how often and long."""
