"""The whole of saymask on one machine: queue, worker, backend and a Label Studio with samples."""
