"""The compile program, which also keeps each graph: `graph_program.py [--long] FOLDER ARGUMENTS…`.
With `--long` it compiles with the engine's own gradient functions, for test_short_gradients.py."""

import sys
from pathlib import Path

from ms_codegeex.extras.cluster.rehearsal import compile_program


def keep_graphs(folder):
    """Write what each rank's process exports to the folder."""
    exported = compile_program.exported

    def kept(step):
        data, place = exported(step), Path.cwd()  # JOB/scratch_RANK
        (folder / f"{place.parent.name}_{place.name.removeprefix('scratch_')}").write_bytes(data)
        return data

    compile_program.exported = kept


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[0] == "--long":
        compile_program.use_gradient_functions = lambda half=None: None
        arguments = arguments[1:]
    keep_graphs(Path(arguments[0]))
    sys.exit(compile_program.main(arguments[1:]))
