"""Runs with any version of transformers: prints greedy answers, and ids of texts, as JSON.

A request: `path`, `texts` as prompts, `count` tokens of an answer, and `only_ids`: texts of which only the ids and
what they decode to are asked for; without `texts` no model is loaded.
"""

from engine_answers import answer_all


def answers(request):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(request["path"], trust_remote_code=request["trust"])
    only_ids = [tokenizer(text).input_ids for text in request.get("only_ids", ())]
    decoded = [tokenizer.decode(ids) for ids in only_ids]
    found = []
    if request["texts"]:
        given = {"trust_remote_code": request["trust"], "torch_dtype": getattr(torch, request["dtype"])}
        model = AutoModelForCausalLM.from_pretrained(request["path"], **given).eval()
    for text in request["texts"]:
        ids = tokenizer(text).input_ids
        settings = {"max_new_tokens": request["count"], "do_sample": False, "pad_token_id": 0}
        with torch.no_grad():
            whole = model.generate(torch.tensor([ids]), **settings)[0].tolist()
            logits = model(torch.tensor([whole])).logits[0, len(ids) - 1 : -1].double().log_softmax(-1)
        new = whole[len(ids) :]
        chosen = logits[torch.arange(len(new)), new].tolist()
        text = tokenizer.decode(new)
        found.append({"prompt_ids": ids, "ids": new, "log_probabilities": chosen, "text": text})
    return {"answers": found, "only_ids": only_ids, "decoded": decoded}


if __name__ == "__main__":
    answer_all(answers)
