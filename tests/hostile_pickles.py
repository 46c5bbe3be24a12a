"""Pickles that call functions, and archives around pickles."""

import os
import pickle
import zipfile


class Call:
    """Pickled, it is a call of any function, by itself of `os.system`."""

    def __init__(self, function=os.system, *arguments):
        self.reduced = function, arguments or ("touch this_ran",)

    def __reduce__(self):
        return self.reduced


RAW = {  # as Python writes it in each protocol, and as no program does
    "protocol 0": pickle.dumps(Call(), 0),
    "protocol 1": pickle.dumps(Call(), 1),
    "protocol 2": pickle.dumps(Call(), 2),
    "protocol 4": pickle.dumps([Call(), {"a": Call()}], 4),
    "protocol 5": pickle.dumps((Call(),), 5),
    "names from the memo": b"\x80\x04\x8c\x02os\x940\x8c\x06system\x940h\x00h\x01\x93\x8c\x02id\x85R.",
    "names under others": b"\x80\x04\x8c\x02os\x8c\x06systemN0\x93\x8c\x02id\x85R.",
    "INST": b"(X\x02\x00\x00\x00idios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nX\x02\x00\x00\x00ido.",
    "a member of a member": b"\x80\x04\x8c\x07deepspe\x8c\x09os.system\x93.",
}


def archive(path, pickled, records=(), method=zipfile.ZIP_STORED, pickle_method=zipfile.ZIP_STORED):
    """A file of PyTorch's kind: `m/data.pkl`, and further records, each with its data."""
    with zipfile.ZipFile(path, "w") as target:
        if pickled is not None:
            target.writestr("m/data.pkl", pickled, pickle_method)
        for name, data in records:
            target.writestr(f"m/{name}", data, method)
    return path
