"""What is found in finished studies, and measurements beside training."""
