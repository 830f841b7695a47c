"""HTTP in, HTTP out: Label Studio's ML backend protocol, a status page and readiness."""
