"""Images: where they are (``sources``), the list of them (``listing``), their pixels (``load``)."""
