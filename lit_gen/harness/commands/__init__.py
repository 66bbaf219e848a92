"""The commands of `reproduce`, by what they are about."""
