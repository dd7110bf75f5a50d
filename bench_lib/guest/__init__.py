"""A guest: its image, QEMU's command line and process, its monitors, its serial line."""
