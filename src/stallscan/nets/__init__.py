"""Nets: a clip in, the logit of stalled out."""
