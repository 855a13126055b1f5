"""How a network and its layers stretch small changes of their inputs."""
