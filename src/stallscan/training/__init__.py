"""Training: turn clips and labels into a bundle."""
