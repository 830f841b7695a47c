"""The worker process: jobs from the queue, heartbeat, and pausing for annotators."""
