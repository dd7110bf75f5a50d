"""The network between two guests: namespaces, a veth, and what goes wrong with it."""
