"""Tables of recordings, labels and mice: read, joined, selected and split."""
