// Errors in the words of the page: its readers see fields and buttons, not the names of the API.

const FIELDS = {
  max_tokens: "Length",
  temperature: "Temperature",
  top_k: "Top-k",
  top_p: "Top-p",
  seed: "Seed",
  n: "Candidates",
  prompt: "Prompt",
  code: "Code",
  messages: "Conversation",
};
const CODES = {
  queue_full: "The server is busy.",
  rate_limit_exceeded: "This key has asked for as much as it may at present.",
  model_not_found: "The server no longer has this model: load the page again.",
  not_a_chat_model: "This model continues code and does not answer questions.",
  engine_error: "The model failed on this text. The server's log says why.",
};

// `error`: of the answer's body; `hadKey`: whether a key was sent; `wait`: seconds, if the server named them.
export function inWords(status, error, hadKey, wait) {
  const words = explained(status, error ?? {}, hadKey);
  return wait ? `${words} Try again in ${wait} s.` : words;
}

function explained(status, { message = "", param, code }, hadKey) {
  if (status === 401) return hadKey ? "The server does not know this key." : "The server asks for a key.";
  if (CODES[code]) return CODES[code];
  if (status === 503) return "The server cannot answer at present.";
  const long = /context length is (\d+) tokens\. .* resulted in (\D*)(\d+) tokens/.exec(message);
  if (long) return `The text has ${long[2]}${long[3]} tokens, and the model's context is ${long[1]}: shorten the text.`;
  const leaves = /leave no room for a prompt, the model's context is (\d+) tokens/.exec(message);
  if (leaves) return `Length: it leaves no room for a text, the model's context is ${leaves[1]} tokens.`;
  if (!message) return "The server answered with an error.";
  const rest = param && message.startsWith(`${param}: `) ? message.slice(param.length + 2) : message;
  return FIELDS[param] ? `${FIELDS[param]}: ${rest}` : rest;
}
