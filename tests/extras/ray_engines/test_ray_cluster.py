"""What both verbs that use Ray need of it."""

import subprocess
import sys

from ray_clusters import needs_ray

IMPORTS = """
import os
from ms_codegeex.extras.ray_engines.cluster import PROTOBUF, import_ray
os.environ.pop(PROTOBUF, None)
import_ray("--engine ray")
from google.protobuf.internal import api_implementation
print(api_implementation.Type(), PROTOBUF in os.environ)
"""


@needs_ray
def test_mindspore_can_be_imported_after_ray():
    """It needs protobuf in Python; whoever imports protobuf first decides. `evaluate --model` imports Ray first."""
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True)
    assert done.stdout == "python False\n", done.stderr
