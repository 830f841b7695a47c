"""The only place that knows Label Studio's JSON, XML and HTTP."""
