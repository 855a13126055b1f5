"""What the hidden units do on given inputs."""
