"""One run: its learner, what is measured, where its result comes from."""
