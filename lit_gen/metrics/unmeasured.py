"""Numbers that no run can give, and why, where a reproduction stands beside such a claim.

Either it is another experiment than the paper's, whose numbers have names of their own, or the
paper has pictures alone and people count what they show.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from lit_gen.metrics.sample_quality import Judged


class Unmeasured:
    """Says it of every run, so that a verdict does, too.

    Args:
        metric: of the claim.
        why: a sentence.
    """

    id = "unmeasured/1"
    never = True  # a record that lacks this number lacks nothing

    def __init__(self, metric: str, why: str) -> None:
        self.names, self.why = (metric,), why

    def judge(
        self,
        sample: "Callable[[int], Tensor]",
        data: Any,
        most: int | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> "Judged":
        """No number; see `lit_gen.metrics.sample_quality.OfSamples.judge`."""
        from lit_gen.metrics.sample_quality import Judged  # which takes a second to import

        return Judged({}, dict.fromkeys(self.names, self.why), {}, {})
