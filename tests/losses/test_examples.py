"""Every public function of losses and distances has an example in its docstring, which pytest collects and runs."""

import doctest
import inspect

import pytest

from jaxml import distances, losses

FUNCTIONS = {
    f"{module.__name__}.{name}": function
    for module, names in ((losses, losses.__all__), (distances, distances.__all__))
    for name in names
    if callable(function := getattr(module, name))
    and not inspect.isclass(function)
    and not name.startswith("_")
    and function.__module__.startswith(module.__name__)
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_has_an_example(name):
    assert doctest.DocTestParser().get_examples(inspect.getdoc(FUNCTIONS[name]))


def test_the_functions_are_found():
    assert {f"jaxml.losses.{name}" for name in losses.LOSSES} <= set(FUNCTIONS)
    assert {"jaxml.distances.pairwise", "jaxml.distances.dot"} <= set(FUNCTIONS)
