"""The exercises themselves, a module for what belongs together; each says which notebooks ask them."""
