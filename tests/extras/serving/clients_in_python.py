"""Runs clients of OpenAI's API, in an environment that has them: `test_newest_clients.py`. Prints what a user of each
sees for each kind of mistake, and what it makes of tools."""

import json
import sys
import warnings
from importlib.metadata import version

import openai
from pydantic import BaseModel

warnings.filterwarnings("ignore")
URL, KEY, SLOW = sys.argv[1:]
MISTAKES = {
    "too long": {"text": "x = 1\n" * 3000},
    "rate limit": {"key": SLOW},
    "key": {"key": "wrong"},
    "model": {"model": "gpt"},
    "field": {"temperature": -1.0},
}


class Person(BaseModel):
    name: str
    age: int


def with_openai(text="x", key=KEY, model="fake", **more):

    client = openai.OpenAI(base_url=URL, api_key=key, max_retries=0)
    client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **more)
    return client.responses.create(model=model, input=text, **more).output_text


def with_litellm(text="x", key=KEY, model="fake", **more):
    import litellm

    litellm.suppress_debug_info = True
    asked = [{"role": "user", "content": text}]
    known = {"api_base": URL, "api_key": key, "num_retries": 0}
    return litellm.completion(f"openai/{model}", asked, **known, **more).choices[0].message.content


def with_langchain(text="x", key=KEY, model="fake", **more):
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(base_url=URL, api_key=key, model=model, max_retries=0, **more).invoke(text).content


def mistakes(ask):
    """The class of error that each mistake is for a user of the client."""
    ask()
    found = {}
    for kind, fields in MISTAKES.items():
        try:
            for _ in range(3):
                ask(**fields)
        except Exception as error:
            found[kind] = type(error).__name__
    return found


def tools_of_openai():
    client, tool = openai.OpenAI(base_url=URL, api_key=KEY), openai.pydantic_function_tool(Person)
    said = {"model": "fake", "messages": [{"role": "user", "content": "x"}]}
    found = client.chat.completions.parse(**said, tools=[tool], tool_choice="required")
    return found.choices[0].message.tool_calls[0].function.parsed_arguments.model_dump()


def tools_of_litellm():
    import litellm

    parameters = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}
    tool = {"type": "function", "function": {"name": "person", "parameters": parameters}}
    asked = [{"role": "user", "content": "x"}]
    found = litellm.completion("openai/fake", asked, tools=[tool], api_base=URL, api_key=KEY)
    return json.loads(found.choices[0].message.tool_calls[0].function.arguments)


def tools_of_instructor():
    import instructor

    client = instructor.from_openai(openai.OpenAI(base_url=URL, api_key=KEY))
    asked = {"model": "fake", "messages": [{"role": "user", "content": "x"}]}
    (*_, streamed) = client.chat.completions.create_partial(response_model=Person, **asked)
    found = client.chat.completions.create(response_model=Person, **asked)
    assert found.model_dump() == streamed.model_dump()
    return found.model_dump()


def person(name: str, age: int) -> str:
    """Take note of a person."""
    return json.dumps({"name": name, "age": age})


def tools_of_openais_agents():
    from agents import Agent, OpenAIProvider, RunConfig, Runner, function_tool

    agent = Agent(name="A", model="fake", tools=[function_tool(person)])
    own = RunConfig(model_provider=OpenAIProvider(base_url=URL, api_key=KEY), tracing_disabled=True)
    found = Runner.run_sync(agent, "x", run_config=own)
    assert found.final_output, found
    return json.loads(found.new_items[1].output)


def tools_of_haystack():
    from haystack.components.agents import Agent
    from haystack.components.generators.chat import OpenAIChatGenerator
    from haystack.dataclasses import ChatMessage
    from haystack.tools import create_tool_from_function
    from haystack.utils import Secret

    model = OpenAIChatGenerator(api_key=Secret.from_token(KEY), api_base_url=URL, model="fake")
    agent = Agent(chat_generator=model, tools=[create_tool_from_function(person)])
    *_, result, answer = agent.run(messages=[ChatMessage.from_user("x")])["messages"]
    assert answer.text, answer
    return json.loads(result.tool_call_result.result)


def tools_of_langchains_agents():
    from langchain.agents import create_agent
    from langchain_openai import ChatOpenAI

    agent = create_agent(ChatOpenAI(base_url=URL, api_key=KEY, model="fake"), [person])
    *_, result, answer = agent.invoke({"messages": [{"role": "user", "content": "x"}]})["messages"]
    assert answer.content, answer
    return json.loads(result.content)


def tools_of_langchain():
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(base_url=URL, api_key=KEY, model="fake")
    return model.with_structured_output(Person, method="function_calling").invoke("x").model_dump()


CLIENTS = {
    "openai": (with_openai, tools_of_openai),
    "litellm": (with_litellm, tools_of_litellm),
    "langchain-openai": (with_langchain, tools_of_langchain),
    "langchain": (None, tools_of_langchains_agents),
    "instructor": (None, tools_of_instructor),
    "openai-agents": (None, tools_of_openais_agents),
    "haystack-ai": (None, tools_of_haystack),
}

if __name__ == "__main__":
    found = {name: [version(name), mistakes(ask) if ask else {}, tools()] for name, (ask, tools) in CLIENTS.items()}
    print(json.dumps(found))
