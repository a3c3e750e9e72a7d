"""What ships: exports, and the object that encodes images and texts with one."""
