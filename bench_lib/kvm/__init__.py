"""KVM without QEMU."""
