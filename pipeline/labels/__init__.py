"""What heads are about: labels by judges, with evidence, and scores of them."""
