"""Models that write and draw at a request: behind servers, or on this machine."""
