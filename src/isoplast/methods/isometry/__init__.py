"""Methods that keep weight matrices isometric."""
