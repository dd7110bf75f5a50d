"""What records say: pure functions over them, and nothing that starts a process."""
