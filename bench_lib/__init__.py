"""kickbench: when a guest is stuck, does the host still obey its operator?"""
