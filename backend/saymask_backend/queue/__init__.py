"""The queue: requests in, replies out, and the jobs between them."""
