"""The processes, and what wires them."""
