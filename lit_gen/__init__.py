"""Reproduces numbers from generative-modelling papers, and says whether they hold."""

from lit_gen import torchvision_schemas

torchvision_schemas.install()  # before anything imports Lightning, which imports torchvision
