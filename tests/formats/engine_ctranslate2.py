"""Runs in an environment of its own that has CTranslate2: converts directories and prints greedy answers as JSON.

A request: `path`, `output` for the converted model, `dtype` or null, `texts`, `count` tokens of an answer, and
`with_prompt`: whether the prompt comes back, too, as it does by default.
"""

from engine_answers import answer_all


def answers(request):
    import ctranslate2
    import transformers

    converter = ctranslate2.converters.TransformersConverter(request["path"])
    kind = request["dtype"] or "float32"
    converter.convert(request["output"], quantization=None if kind == "float32" else kind, force=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(request["path"])
    model = ctranslate2.Generator(request["output"], compute_type=kind, intra_threads=2)
    found = []
    for text in request["texts"]:
        ids = tokenizer(text).input_ids
        tokens = tokenizer.convert_ids_to_tokens(ids)
        asked = {"max_length": request["count"], "sampling_topk": 1}
        (result,) = model.generate_batch([tokens], include_prompt_in_result=request.get("with_prompt", False), **asked)
        if request.get("with_prompt"):
            found.append({"prompt_ids": ids, "ids": result.sequences_ids[0]})
            continue
        whole = ids + result.sequences_ids[0]
        (scores,) = model.score_batch([tokenizer.convert_ids_to_tokens(whole)])
        new = result.sequences_ids[0]
        scores = scores.log_probs[len(ids) - 1 :]
        text = tokenizer.decode(new)
        found.append({"prompt_ids": ids, "ids": new, "log_probabilities": scores, "text": text})
    return {"answers": found}


if __name__ == "__main__":
    answer_all(answers)
