"""The router: one address before several servers, for HTTP and for WebSockets."""
