import torch

# The models here are tiny: threads cost more than they bring.
torch.set_num_threads(1)
