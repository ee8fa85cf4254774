"""From recordings to calls: predicted, resumed, decided again, explained."""
