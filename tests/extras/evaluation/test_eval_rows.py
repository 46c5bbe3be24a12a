from dataclasses import replace

from ms_codegeex.extras.evaluation.rows import fingerprint
from ms_codegeex.extras.evaluation.task import Sample


def test_how_a_text_came_about_makes_it_no_other_program():
    notes = [Sample("cpp/1", i, "p", "2", "eos", {"case": 0, "raw": f"2{i}", "turns": [i]}) for i in range(3)]
    assert len({fingerprint(sample) for sample in notes}) == 1
    others = [
        *notes[:1],
        replace(notes[0], generation="3"),
        replace(notes[0], prompt="q"),
        replace(notes[0], task_id="a"),
    ]
    others += [replace(notes[0], extra={"case": 1}), replace(notes[0], finish="too long")]
    assert len({fingerprint(sample) for sample in others}) == 6
