"""The only package that knows Label Studio's JSON, XML and HTTP."""
