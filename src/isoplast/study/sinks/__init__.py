"""Where a run's numbers go besides its directory: TensorBoard, Weights & Biases, a user's own."""
