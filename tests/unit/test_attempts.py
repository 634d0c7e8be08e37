"""How often a shard was begun."""

from mnist_ocr.labelling.attempts import MAX_ATTEMPTS, AttemptCounter


def test_shard_is_given_up_after_so_many_attempts() -> None:
    """Each stage of a shard has a count of its own, and the last attempt still counts as one."""
    counter = AttemptCounter()
    assert [counter.count(7, "read") for _ in range(MAX_ATTEMPTS)] == [1, 2, 3, 4]
    assert counter.count(8, "read") == counter.count(7, "write") == 1
    assert counter.list_given_up() == []
    assert counter.count(7, "read") > MAX_ATTEMPTS
    assert counter.list_given_up() == [7]
