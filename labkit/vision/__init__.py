"""Images to features: data sets, batches, backbones, the training loop and its recipes."""
