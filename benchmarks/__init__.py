"""What is measured: one module per request."""
