"""Among two processes of two devices, each finds what one process of four devices finds, alone or with the other."""

import json

from tests import processes
from tests.evaluation.scores import everything


def test_each_of_two_processes_finds_what_one_finds(tmp_path):
    files = [tmp_path / "first.json", tmp_path / "second.json"]
    started = processes.start(*(["-m", "tests.evaluation.scores", str(file)] for file in files))
    wanted = everything()
    codes, logs = processes.finish(started)
    assert codes == [0, 0], logs
    for file in files:
        for found in json.loads(file.read_text()):
            assert found.keys() == wanted.keys()
            for name, values in wanted.items():
                assert found[name] == values, name
