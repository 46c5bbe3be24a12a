"""Runs in an environment of its own that has vLLM: `engine_vllm.py < requests.json` prints answers as JSON.

A request: `path`; `texts` as prompts, or `only_ids`: texts of which only the ids are asked for; `count` tokens of an
answer; `dtype`; `adapter`: a directory of adapters for PEFT, or null.
"""

import gc

from engine_answers import answer_all


def answers(request):
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    adapter = request.get("adapter")
    model = LLM(
        request["path"],
        trust_remote_code=request["trust"],
        dtype=request["dtype"],
        max_model_len=request["length"],
        max_num_seqs=24,
        enforce_eager=True,
        enable_lora=adapter is not None,
        max_lora_rank=8,
        disable_log_stats=True,
    )
    tokenizer = model.get_tokenizer()
    only_ids = [tokenizer.encode(text) for text in request.get("only_ids", ())]
    hidden = not request.get("marks", False)  # as by default; random weights choose Qwen2's marks, too
    settings = SamplingParams(temperature=0, max_tokens=request["count"], logprobs=1, skip_special_tokens=hidden)
    lora = {} if adapter is None else {"lora_request": LoRARequest("own", 1, adapter)}
    found = []
    for each in model.generate(request["texts"], settings, use_tqdm=False, **lora):
        (answer,) = each.outputs
        chosen = [likely[number].logprob for number, likely in zip(answer.token_ids, answer.logprobs, strict=True)]
        ids = {"prompt_ids": list(each.prompt_token_ids), "ids": list(answer.token_ids)}
        found.append({**ids, "log_probabilities": chosen, "text": answer.text})
    return {"answers": found, "only_ids": only_ids}


def clean():
    """Free what the engine of the last request held."""
    from vllm.distributed import cleanup_dist_env_and_memory

    gc.collect()
    cleanup_dist_env_and_memory()


if __name__ == "__main__":
    answer_all(answers, clean)
