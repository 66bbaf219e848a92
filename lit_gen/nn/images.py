"""Images as networks take them."""

from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor


def check_size(x: Tensor, shape: tuple[int, int, int], choice: bool = False) -> None:
    """Tells a user of images that networks are not for; torch would complain of matrices, or not.

    Args:
        x: a batch of images (n, C, H, W).
        shape: the (C, H, W) that the networks are for.
        choice: whether there are networks for other sizes, and for a folder's images.

    Raises:
        MisconfigurationException: it is another size. The harness takes this for the user's
            mistake, not for a run that crashed.
    """
    if x.shape[1:] == shape:
        return
    needed, given = (" x ".join(map(str, size)) for size in (shape, x.shape[1:]))
    others = (
        f" (a folder's: --data.size {shape[-1]} --data.channels {shape[0]}), or choose another "
        "architecture"
    )
    raise MisconfigurationException(
        f"these networks are for images of {needed} numbers, the data's have {given}. Give images "
        f"of that size{others * choice}."
    )
