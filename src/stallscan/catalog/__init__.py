"""Read, join, select and split tables of recordings, labels and mice."""
