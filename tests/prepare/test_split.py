from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dino_nb.prepare.split import stratified

ITEMS = st.lists(st.tuples(st.integers(0, 30), st.sets(st.sampled_from("abcde"), max_size=3)), min_size=2, max_size=60)


@settings(max_examples=200, deadline=None)
@given(items=ITEMS, fraction=st.sampled_from([0.1, 0.2, 0.5, 0.9]), seed=st.integers(0, 5))
def test_stratified_puts_no_content_on_both_sides_and_no_class_only_in_val(items, fraction, seed):
    val = stratified(items, fraction, seed)
    assert val == stratified(items, fraction, seed)
    train = set(range(len(items))) - val
    assert train
    assert not {items[i][0] for i in val} & {items[i][0] for i in train}
    classes = [set().union(*(items[i][1] for i in part)) for part in (train, val)]
    assert not classes[1] - classes[0]


@settings(max_examples=200, deadline=None)
@given(labels=st.lists(st.sets(st.sampled_from("abcde"), max_size=3), min_size=2, max_size=60))
def test_stratified_puts_each_class_of_two_images_on_both_sides(labels):
    val = stratified(list(enumerate(labels)), 0.2)
    counts = Counter(name for names in labels for name in names)
    bound = {i for i, names in enumerate(labels) if any(counts[name] == 1 for name in names)}  # must be in train
    for name, count in counts.items():
        members = {i for i, names in enumerate(labels) if name in names}
        assert members - val
        if count > 1 and not bound:
            assert members & val or _pinned(members, labels, val)


def _pinned(members, labels, val):
    """Whether each image of a class is the last one in train of some other class."""
    train = Counter(name for i, names in enumerate(labels) if i not in val for name in names)
    return all(any(train[name] == 1 for name in labels[i]) for i in members)


def test_stratified_shares_are_those_of_the_whole():
    items = [(i, {"common"} | ({"rare"} if i % 10 == 0 else set())) for i in range(200)]
    val = stratified(items, 0.2, seed=3)
    assert len(val) == 40
    assert sum("rare" in items[i][1] for i in val) == 4
    assert val != stratified(items, 0.2, seed=4)


def test_stratified_val_grows_where_few_images_hold_many_classes():
    items = [(i, {f"class {i % 5}"}) for i in range(10)]
    assert len(stratified(items, 0.1)) == 5


@pytest.mark.parametrize("fraction", [0.0, 0.2])
def test_stratified_with_little_or_nothing_to_divide(fraction):
    assert stratified([(0, {"a"})], fraction) == set()
    assert stratified([(0, {"a"}), (0, {"a"})], fraction) == set()
    assert len(stratified([(0, {"a"}), (1, {"a"})], fraction)) == (fraction > 0)
