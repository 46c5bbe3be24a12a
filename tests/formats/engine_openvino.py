"""Runs in an environment of its own that has OpenVINO GenAI: converts directories and prints greedy answers as JSON.

A request: `path`, `output` for the converted model, `texts`, `count` tokens of an answer, and `only_ids`: texts of
which only the ids and what they decode to are asked for. It tells no probabilities of the tokens.
"""

from pathlib import Path

from engine_answers import answer_all


def converted(path, output, trust):
    import openvino
    from openvino_tokenizers import convert_tokenizer
    from optimum.intel import OVModelForCausalLM
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust)
    own = dict(zip(("tokenizer", "detokenizer"), convert_tokenizer(tokenizer, with_detokenizer=True), strict=True))
    given = {"export": True, "load_in_8bit": False, "compile": False, "trust_remote_code": trust}
    OVModelForCausalLM.from_pretrained(path, **given).save_pretrained(output)
    for name, model in own.items():
        openvino.save_model(model, Path(output) / f"openvino_{name}.xml", compress_to_fp16=False)


def answers(request):
    import openvino_genai

    converted(request["path"], request["output"], request["trust"])
    exact = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
    model = openvino_genai.LLMPipeline(request["output"], "CPU", **exact)
    tokenizer = model.get_tokenizer()
    only_ids = [tokenizer.encode(text).input_ids.data[0].tolist() for text in request.get("only_ids", ())]
    decoded = [tokenizer.decode(ids) for ids in only_ids]
    found = []
    for text in request["texts"]:
        prompt = tokenizer.encode(text)
        (new,) = model.generate(prompt, max_new_tokens=request["count"], do_sample=False).tokens
        answer = {"prompt_ids": prompt.input_ids.data[0].tolist(), "ids": [*map(int, new)]}
        found.append({**answer, "log_probabilities": [None] * len(new), "text": tokenizer.decode(new)})
    return {"answers": found, "only_ids": only_ids, "decoded": decoded}


if __name__ == "__main__":
    answer_all(answers)
