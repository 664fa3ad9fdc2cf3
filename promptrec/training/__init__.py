"""The one training loop that every gradient-trained model runs."""
