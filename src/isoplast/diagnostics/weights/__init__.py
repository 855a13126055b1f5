"""What the weights alone say."""
