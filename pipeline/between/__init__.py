"""Two models over the same images: how alike their heads are, and texts of one for the other."""
