"""How a GAN is trained: the networks with their optimizers and loss, the step, the loop."""
