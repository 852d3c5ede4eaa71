"""The prompts of a run, and which one is next."""

from collections.abc import Sequence


class Prompts:
    """Prompts that voices take in turn; a person may choose another one, after which the turn goes on from there."""

    def __init__(self, prompts: Sequence[str]) -> None:
        """Begin with the first of `prompts`, of which there is one at least."""
        self.all = [*prompts]
        self.number = 1  # of the next one, from 1

    def __str__(self) -> str:
        return f"prompt {self.number} of {len(self.all)}: {self.next}"

    @property
    def next(self) -> str:
        """Prompt of the next voice."""
        return self.all[self.number - 1]

    def choose(self, number: int) -> bool:
        """Make prompt `number` the next one; return whether there is such a prompt."""
        if not 1 <= number <= len(self.all):
            return False
        self.number = number
        return True

    def take(self) -> str:
        """Return the next prompt, and move on to the one after it, from the last to the first."""
        prompt = self.next
        self.number = self.number % len(self.all) + 1
        return prompt
