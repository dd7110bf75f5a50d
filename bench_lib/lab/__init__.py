"""The lab: a virtual machine that runs another kernel over this userland."""
