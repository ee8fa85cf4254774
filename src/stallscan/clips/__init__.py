"""What a net sees of a recording, made by one function in training and in prediction."""
