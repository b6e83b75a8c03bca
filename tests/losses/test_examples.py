"""The examples in the docstrings of losses and distances: every public function has one, and it prints what it says."""

import doctest
import inspect

import pytest

from jaxml import distances, losses

EXAMPLES = {
    f"{module.__name__}.{name}": function
    for module, names in ((losses, losses.__all__), (distances, vars(distances)))
    for name in names
    if callable(function := getattr(module, name))
    and not inspect.isclass(function)
    and not name.startswith("_")
    and function.__module__.startswith(module.__name__)
}


def test_the_functions_are_found():
    assert set(losses.LOSSES) <= {name.rpartition(".")[2] for name in EXAMPLES}
    assert "jaxml.distances.pairwise" in EXAMPLES


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name):
    function = EXAMPLES[name]
    test = doctest.DocTestParser().get_doctest(inspect.getdoc(function), {}, name, None, None)
    assert test.examples
    result = doctest.DocTestRunner().run(test)
    assert result.failed == 0
