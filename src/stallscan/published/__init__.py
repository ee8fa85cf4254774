"""The four published approaches, end to end."""
