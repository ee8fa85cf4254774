"""Which vessel of a recording is meant: its outline, box, mask and centre line."""
