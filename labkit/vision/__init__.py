"""Images to features: data sets, batches, backbones, the training loop and its recipes.

Torchvision is imported here, before any module that needs it, because it can need a hand.
"""

from labkit.system import import_torchvision

torchvision = import_torchvision()
