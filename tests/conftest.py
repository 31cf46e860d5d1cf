"""Repairs torchvision before any model class is imported, where a CPU torch sits beside a CUDA torchvision."""

import torch

from kvpress_video.torchvision_repair import repair_torchvision

repair_torchvision()
torch.set_num_threads(1)  # two test processes share two cores
