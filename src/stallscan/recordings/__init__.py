"""Files in, frames out: videos, stacks and arrays of what a microscope saw."""
