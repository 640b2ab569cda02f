"""The arithmetic of heads, frames and activations in few passes over memory; the modules above call it where it serves.

Nobody needs to read it to understand the method: `heads`, `nearest` and `activations` have that.
"""
