// The AI SDK and Continue's adapter, in a folder that has them: `test_newest_clients.py`. Prints what a user of each sees for
// each kind of mistake, and what it makes of tools.
import { readFileSync } from 'node:fs';
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { constructLlmApi } from '@continuedev/openai-adapters';
import { generateText, stepCountIs, streamText, tool } from 'ai';
import { z } from 'zod';

const [baseURL, key, slow] = process.argv.slice(2);
const long = 'x = 1\n'.repeat(3000);
const mistakes = { 'too long': { prompt: long }, 'rate limit': { apiKey: slow }, key: { apiKey: 'wrong' }, model: { model: 'gpt' } };
const person = tool({ inputSchema: z.object({ name: z.string(), age: z.number() }), execute: async ({ name }) => name });
const models = {
  responses: (apiKey, model) => createOpenAI({ baseURL, apiKey })(model),
  chat: (apiKey, model) => createOpenAI({ baseURL, apiKey }).chat(model),
  compatible: (apiKey, model) => createOpenAICompatible({ name: 'own', baseURL, apiKey })(model),
};
const found = { version: JSON.parse(readFileSync('node_modules/ai/package.json', 'utf8')).version };
for (const [name, made] of Object.entries(models)) {
  found[name] = {};
  for (const [kind, { prompt = 'x', apiKey = key, model = 'fake' }] of Object.entries(mistakes)) {
    try {
      for (let time = 0; time < 3; time++) await generateText({ model: made(apiKey, model), prompt, maxRetries: 0 });
    } catch (error) {
      found[name][kind] = [error.name, error.statusCode, error.isRetryable];
    }
  }
  const asked = { model: made(key, 'fake'), tools: { person }, stopWhen: stepCountIs(3), prompt: 'x' };
  const streamed = streamText(asked);
  let text = '';
  for await (const piece of streamed.textStream) text += piece;
  found[name].tools = [(await generateText(asked)).steps[0].toolCalls[0].input, text];
}
const parameters = { type: 'object', properties: { name: { type: 'string' }, age: { type: 'integer' } } };
const body = { model: 'fake', messages: [{ role: 'user', content: 'x' }], tools: [{ type: 'function', function: { name: 'person', parameters } }] };
const api = constructLlmApi({ provider: 'openai', apiKey: key, apiBase: baseURL });
const { choices } = await api.chatCompletionNonStream({ ...body, stream: false }, new AbortController().signal);
const { version } = JSON.parse(readFileSync('node_modules/@continuedev/openai-adapters/package.json', 'utf8'));
found.continue = { version, tools: JSON.parse(choices[0].message.tool_calls[0].function.arguments) };
console.log(JSON.stringify(found));
