"""Other people's checkpoints: what knows their files, names and orders of gates."""
