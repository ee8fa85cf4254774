"""A page on which people check and correct calls."""
