"""Training seeds as the user writes them."""

from bench.errors import UsageError


def parse_seeds(text: str) -> list[int]:
    """Read `10` as the seeds 1 to 10 and `1,2,5` as a list.

    Raises:
        UsageError: not whole numbers, none, negative, or the same one twice.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    try:
        numbers = [int(part) for part in parts]
    except ValueError as error:
        raise UsageError(f"--seeds expects a count such as 10 or a list such as 1,2,3; found '{text}'.") from error
    if len(numbers) == 1 and "," not in text:
        numbers = list(range(1, numbers[0] + 1))
    if not numbers or min(numbers) < 0:
        raise UsageError(f"--seeds expects at least one seed, none negative; found '{text}'.")
    if len(set(numbers)) != len(numbers):
        raise UsageError(f"--seeds names a seed twice: '{text}'. The same seed gives the same run.")
    return numbers
