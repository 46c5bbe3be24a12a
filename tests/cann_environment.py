"""A folder as CANN installs it, as far as its `set_env.sh` goes: it sets the variables of published copies of that file
(CANN 8). No test meets the real one; docs/status.md has a check that does."""

import os
import subprocess
from pathlib import Path

SET_ENV = """\
export LD_LIBRARY_PATH=/usr/local/Ascend/driver/lib64:/usr/local/Ascend/driver/lib64/driver:$LD_LIBRARY_PATH
export ASCEND_TOOLKIT_HOME={home}
export LD_LIBRARY_PATH=${{ASCEND_TOOLKIT_HOME}}/lib64:${{ASCEND_TOOLKIT_HOME}}/lib64/plugin/opskernel:$LD_LIBRARY_PATH
export PYTHONPATH={home}/python/site-packages:{home}/opp/built-in/op_impl/ai_core/tbe:$PYTHONPATH
export PATH=${{ASCEND_TOOLKIT_HOME}}/bin:${{ASCEND_TOOLKIT_HOME}}/tools/ccec_compiler/bin:$PATH
export ASCEND_AICPU_PATH=${{ASCEND_TOOLKIT_HOME}}
export ASCEND_OPP_PATH=${{ASCEND_TOOLKIT_HOME}}/opp
export TOOLCHAIN_HOME=${{ASCEND_TOOLKIT_HOME}}/toolkit
export ASCEND_HOME_PATH=${{ASCEND_TOOLKIT_HOME}}
"""
NAMES = ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH", "ASCEND_OPP_PATH", "ASCEND_AICPU_PATH", "TOOLCHAIN_HOME")


def install_cann(folder: Path) -> Path:
    """Its `set_env.sh`, and a Python module `te` like the one that MindSpore imports from it."""
    packages = folder / "python" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "te.py").write_text("")
    (folder / "set_env.sh").write_text(SET_ENV.format(home=folder))
    return folder / "set_env.sh"


def sourced(set_env: Path) -> dict[str, str]:
    """What a shell exports that has sourced it."""
    command = ["bash", "-c", '. "$0" && env -0', str(set_env)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ)).stdout
    return dict(line.split("=", 1) for line in lines.split("\0") if "=" in line)
