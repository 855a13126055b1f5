"""Looking at and rebuilding somebody's network: its state preserved, its matrices by name, its units."""
