"""How the values of a block are chosen: one file for each method."""
