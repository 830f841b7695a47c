"""``saymask up``: queue, workers, backend and a Label Studio with samples on one machine."""
