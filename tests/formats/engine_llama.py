"""Runs in an environment of its own that has xllamacpp: quantises GGUF files with llama.cpp's functions, and prints its
server's greedy answers as JSON.

A request: `path`; `types`: null, or the type of the matrices and that of the output matrix, in which `path` is written
to `output` first, as llama-quantize does; `texts` with what a prompt begins with, `count` tokens of an answer, and
`only_ids`: texts of which only the ids are asked for.
"""

import ctypes
import json
import urllib.request
from pathlib import Path

import numpy as np
from engine_answers import answer_all


def quantise(request):
    """The file with its matrices in other types; llama-quantize leaves vectors in FP32."""
    import xllamacpp
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, GGUFWriter

    (library,) = Path(xllamacpp.__file__).parent.glob("*.so")
    chunk = ctypes.CDLL(str(library)).ggml_quantize_chunk
    chunk.restype, numbers = ctypes.c_size_t, ctypes.c_int64
    chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, numbers, numbers, numbers, ctypes.c_void_p]
    reader = GGUFReader(request["path"])
    writer = GGUFWriter(request["output"], reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            kind = field.types[0]
            writer.add_key_value(key, field.contents(), kind, field.types[1] if len(field.types) > 1 else None)
    matrices, output = (GGMLQuantizationType[name] for name in request["types"])
    for tensor in reader.tensors:
        data = np.ascontiguousarray(tensor.data)
        if data.ndim < 2:
            writer.add_tensor(tensor.name, data)
            continue
        kind = output if tensor.name == "output.weight" else matrices
        block, size = GGML_QUANT_SIZES[kind]
        rows, columns = data.shape
        result = np.empty((rows, columns // block * size), np.uint8)
        written = chunk(kind.value, data.ctypes.data, result.ctypes.data, 0, rows, columns, None)
        assert written == result.nbytes, (tensor.name, written)
        writer.add_tensor(tensor.name, result, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return request["output"]


def answers(request):
    from xllamacpp import CommonParams, Server, ggml_type, llama_flash_attn_type

    params = CommonParams()
    params.model.path = quantise(request) if request["types"] else request["path"]
    params.n_ctx, params.n_parallel, params.warmup, params.cpuparams.n_threads = request["length"], 1, False, 2
    params.cache_type_k = params.cache_type_v = ggml_type.GGML_TYPE_F32
    params.flash_attn_type = llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED  # it rounds to FP16
    server = Server(params)

    def post(path, **body):
        headers = {"Content-Type": "application/json"}
        asked = urllib.request.Request(server.listening_address + path, json.dumps(body).encode(), headers)
        return json.load(urllib.request.urlopen(asked, timeout=300))

    def ids(text):
        return post("/tokenize", content=text, add_special=True, parse_special=True)["tokens"]

    only_ids = [ids(text) for text in request.get("only_ids", ())]
    settings = {"temperature": 0.0, "top_k": 1, "repeat_penalty": 1.0, "return_tokens": True, "cache_prompt": False}
    found = []
    for text in request["texts"]:
        result = post("/completion", prompt=text, n_predict=request["count"], n_probs=1, **settings)
        told = iter([(each["id"], each["logprob"]) for each in result.get("completion_probabilities", ())])
        following, chosen = next(told, None), []
        for number in result["tokens"]:  # of a token that is not a whole character the server tells nothing
            known = following is not None and following[0] == number
            chosen.append(following[1] if known else None)
            following = next(told, None) if known else following
        answer = {"prompt_ids": ids(text), "ids": result["tokens"]}
        found.append({**answer, "log_probabilities": chosen, "text": result["content"]})
    return {"answers": found, "only_ids": only_ids}


if __name__ == "__main__":
    answer_all(answers)
