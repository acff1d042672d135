"""Settings of every test of training."""

import torch

# Workers of the tests share the cores; more threads would wait for each other.
torch.set_num_threads(1)
