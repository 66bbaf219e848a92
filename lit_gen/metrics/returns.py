"""Returns of episodes: their mean, and the score between a random policy and an expert.

What the harness asks of a metric's class stands at the top of lit_gen/metrics/classification.py.
"""

from collections.abc import Iterator, Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]


def mean(returns: np.ndarray) -> float:
    """Of episodes (E,), undiscounted; nan if one is not finite."""
    return float(np.mean(np.asarray(returns, float)))


def score(returns: np.ndarray, expert: np.ndarray, random: np.ndarray) -> float:
    """0 at the mean return of the random policy and 1 at the expert's (GAIL, Fig. 1).

    Args:
        returns, expert, random: of episodes, (E,), (E',) and (E'',).
    """
    low, high = mean(random), mean(expert)
    return (mean(returns) - low) / (high - low) if high != low else float("nan")


class MeanReturn:
    """The mean return of a run's last episodes, as the harness asks for it.

    Args:
        episodes: how many there must be for the number to count; None takes any.
        of: whose: return, expert_return or random_return.
    """

    tolerance = 0.0

    def __init__(self, episodes: int | None = None, of: str = "return") -> None:
        if episodes is not None and (type(episodes) is not int or episodes < 1):
            raise ValueError(
                f"episodes is {episodes!r}; it must be a whole number above 0, or null"
            )
        self.episodes, self.name = episodes, of

    @property
    def id(self) -> str:
        return f"mean_{self.name}/1" + (f" of {self.episodes}" if self.episodes else "")

    def of(self, arrays: Arrays) -> float:
        """
        Raises:
            ValueError: the array is missing, or of another number of episodes.
        """
        if self.name not in arrays:
            raise ValueError(f"it needs {self.name}; kept are {', '.join(arrays)}")
        returns = arrays[self.name]
        if returns.ndim != 1 or self.episodes not in (None, len(returns)):
            raise ValueError(f"{returns.shape} episodes were played, not {self.episodes}")
        return mean(returns)

    def cases(self) -> Iterator[tuple[Arrays, float]]:
        """Arrays of a run, each with its mean; worked out by hand."""
        n = self.episodes or 7
        yield {self.name: np.full(n, -200)}, -200
        yield {self.name: np.arange(n)}, (n - 1) / 2
        yield {self.name: np.where(np.arange(n) == 0, n * 0.5, 0)}, 0.5
        yield {self.name: np.where(np.arange(n) == n - 1, np.nan, 1.0)}, float("nan")


class Score:
    """`score` of a run's last episodes against those of its expert and of random actions.

    Args:
        episodes: how many there must be for the number to count; None takes any.
    """

    tolerance = 1e-12

    def __init__(self, episodes: int | None = None) -> None:
        self.mean = MeanReturn(episodes)

    @property
    def id(self) -> str:
        return self.mean.id.replace("mean_return", "score")

    def of(self, arrays: Arrays) -> float:
        """
        Raises:
            ValueError: an array is missing, or of another number of episodes.
        """
        self.mean.of(arrays)
        if lacking := {"expert_return", "random_return"} - arrays.keys():
            raise ValueError(f"it needs {', '.join(sorted(lacking))}; kept are {', '.join(arrays)}")
        return score(arrays["return"], arrays["expert_return"], arrays["random_return"])

    def cases(self) -> Iterator[tuple[Arrays, float]]:
        """Arrays of a run, each with its score; worked out by hand."""
        n = self.mean.episodes or 7
        both = {"expert_return": np.array([90, 110]), "random_return": np.array([0, 40])}
        yield {"return": np.full(n, 100), **both}, 1
        yield {"return": np.full(n, 20), **both}, 0
        yield {"return": np.full(n, 120), **both}, 1.25
        yield {"return": np.full(n, -60), **both}, -1
        equal = {"expert_return": np.ones(3), "random_return": np.ones(2)}
        yield {"return": np.ones(n), **equal}, float("nan")
