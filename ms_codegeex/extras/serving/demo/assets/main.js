// The page: tabs, models, settings, the requests of the tasks, examples, the key, the colour scheme.

import { Card } from "./answers.js";
import { ApiError, getJson, hasKey, setKey, stream } from "./api.js";
import { byId, element } from "./dom.js";
import { hideToken } from "./tokens.js";

const TASKS = ["complete", "translate", "explain", "chat"];
const ANSWERS = {
  complete: "Completion",
  translate: "Translation",
  explain: "Explanation",
  comment: "Comments",
  document: "Documentation",
  fix: "Correction",
  chat: "Answer",
};
const LANGUAGE_OF = { complete: "complete-language", translate: "translate-source", explain: "explain-language" };
const PREFERRED = {
  "complete-language": "Python",
  "translate-source": "Python",
  "translate-target": "JavaScript",
  "explain-language": "Python",
};
const LIKELIEST = 5; // tokens that are shown in a token's place

let models = []; // the model, and with each adapter
let conversation = []; // {role, content} in turn
let running = null; // {task, controller, cleared} of the answer under way

// --- tabs and colours ---

function select(task, focus = false) {
  for (const name of TASKS) {
    const tab = byId(`tab-${name}`);
    tab.setAttribute("aria-selected", String(name === task));
    tab.tabIndex = name === task ? 0 : -1;
    byId(`panel-${name}`).hidden = name !== task;
  }
  if (focus) byId(`tab-${task}`).focus();
}

function setUpTabs() {
  TASKS.forEach((task) => {
    const tab = byId(`tab-${task}`);
    tab.addEventListener("click", () => select(task));
    tab.addEventListener("keydown", ({ key }) => {
      const shown = TASKS.filter((name) => !byId(`tab-${name}`).hidden);
      const here = shown.indexOf(task);
      const to = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: shown.length - 1 }[key];
      if (to !== undefined) select(shown[(to + shown.length) % shown.length], true);
    });
  });
}

function setUpColours() {
  const choice = byId("theme");
  const apply = () => (document.documentElement.dataset.theme = choice.value);
  choice.value = localStorage.getItem("theme") ?? "";
  apply();
  choice.addEventListener("change", () => {
    localStorage.setItem("theme", choice.value);
    apply();
  });
}

// --- what the server has ---

async function load() {
  try {
    const list = await getJson("v1/models");
    const examples = await getJson("demo/examples");
    showModels(list.data);
    for (const task of Object.keys(LANGUAGE_OF)) showExamples(task, examples);
  } catch (error) {
    if (error.status === 401) return askForKey(load, error);
    byId("model").textContent = "not available";
    showError(error);
  }
}

// The model and its adapters: the choice is there if there is one to make.
function showModels(found) {
  const before = chosenModel()?.id;
  models = found;
  const choice = byId("adapter");
  choice.parentElement.hidden = models.length < 2;
  choice.replaceChildren(...models.map(({ id }) => element("option", { value: id }, id)));
  choice.onchange = () => showModel(chosenModel());
  if (models.some(({ id }) => id === before)) choice.value = before;
  else showModel(chosenModel());
}

function chosenModel() {
  return models.find(({ id }) => id === byId("adapter").value);
}

function showModel(model) {
  drop("chat");
  conversation = [];
  part("chat", ".results").replaceChildren();
  byId("tab-chat").hidden = !model.chat;
  if (!model.chat && !byId("panel-chat").hidden) select("complete");
  byId("suffix-hint").textContent =
    model.infill === "trained"
      ? "The model fills the gap between the prompt and this text."
      : "The model continues the prompt; where it comes to repeat this text, the answer ends.";
  byId("model").textContent = `${model.id} · ${model.context_length.toLocaleString("en")} tokens of context`;
  byId("length").max = model.context_length;
  for (const [id, preferred] of Object.entries(PREFERRED)) {
    const [before, kept] = [byId(id).value, byId(id).querySelector('option[value=""]')];
    const options = model.languages.map((name) => element("option", { value: name }, name));
    byId(id).replaceChildren(...(kept ? [kept] : []), ...options);
    const wanted = [before, preferred].find((name) => model.languages.includes(name));
    if (wanted) byId(id).value = wanted;
  }
}

function showExamples(task, examples) {
  const choice = byId(`${task}-example`);
  const own = examples.filter((example) => example.task === task);
  const language = byId(LANGUAGE_OF[task]);
  choice.parentElement.hidden = !own.length;
  choice.replaceChildren(choice.options[0], ...own.map(({ title }, i) => element("option", { value: i }, title)));
  choice.onchange = () => {
    const example = own[choice.value];
    if (!example) return;
    byId(`${task}-code`).value = example.code;
    if ([...language.options].some(({ value }) => value === example.language)) language.value = example.language;
  };
}

// `refused`: the server's answer that says why a key is needed.
function askForKey(then, refused = null) {
  const [dialog, value, wrong] = [byId("key"), byId("key-value"), byId("key-wrong")];
  byId("key-change").hidden = false;
  wrong.hidden = !(refused && hasKey());
  wrong.textContent = refused?.message;
  value.value = "";
  dialog.returnValue = "";
  dialog.onclose = () => {
    if (dialog.returnValue === "use") {
      setKey(value.value.trim());
      then();
    } else if (refused) {
      showError(refused);
    }
    value.value = "";
  };
  dialog.showModal();
}

// --- answers ---

function decoding() {
  const number = (id) => byId(id).valueAsNumber;
  return {
    max_tokens: number("length"),
    temperature: number("temperature"),
    top_k: number("top-k"),
    top_p: number("top-p"),
    seed: number("seed"),
    n: number("candidates"),
  };
}

// Whether all settings are; the first that is not gets the focus and a message, for which it has to be seen.
function validSettings() {
  const form = byId("decoding");
  if (form.checkValidity()) return true;
  byId("settings").open = true;
  return form.reportValidity();
}

// Path, body and cards' properties of a task's request.
function requestOf(task) {
  const code = byId(`${task}-code`);
  if (task === "complete") {
    const language = byId("complete-language").value;
    const shaded = byId("probabilities").checked;
    const suffix = byId("complete-suffix").value;
    const body = {
      prompt: code.value,
      ...(suffix && { suffix }),
      ...(language && { language }),
      ...(shaded && { logprobs: LIKELIEST }),
    };
    const onUse = (text) => {
      code.value += text;
      code.focus();
      code.scrollTop = code.scrollHeight;
    };
    return ["v1/completions", body, { label: ANSWERS.complete, language, before: code.value, shaded, onUse }];
  }
  if (task === "translate") {
    const [source, target] = [byId("translate-source").value, byId("translate-target").value];
    const body = { code: code.value, source_language: source, target_language: target };
    return ["v1/code/translate", body, { label: ANSWERS.translate, language: target }];
  }
  if (task === "chat") {
    const messages = [...conversation, { role: "user", content: code.value }];
    return ["v1/chat/completions", { messages }, { label: ANSWERS.chat, language: null }];
  }
  const [kind, language] = [byId("explain-task").value, byId("explain-language").value];
  const body = { code: code.value, language, locale: byId("explain-locale").value };
  // an explanation is prose
  return [`v1/code/${kind}`, body, { label: ANSWERS[kind], language: kind === "explain" ? null : language }];
}

async function answer(task) {
  if (running || !validSettings()) return;
  const [path, body, look] = requestOf(task);
  const settings = { ...decoding(), ...(task === "chat" && { n: 1 }), ...(chosenModel() && { model: chosenModel().id }) };
  const cards = Array.from({ length: settings.n }, (_, i) => {
    return new Card({ ...look, number: i + 1, of: settings.n });
  });
  const turn = task === "chat" ? beginTurn(cards[0]) : null;
  if (!turn) part(task, ".results").replaceChildren(...cards.map((card) => card.root));
  const controller = new AbortController();
  const run = { task, controller, cleared: false };
  running = run;
  showRunning(true);
  const began = performance.now();
  let failure = null;
  let tokens = 0;
  try {
    const wanted = { ...body, ...settings, stream_options: { include_usage: true } };
    for await (const event of stream(path, wanted, controller.signal)) {
      for (const choice of event.choices) cards[choice.index]?.add(choice);
      tokens = event.usage?.completion_tokens ?? tokens;
    }
  } catch (error) {
    failure = error;
  }
  running = null;
  showRunning(false);
  if (run.cleared) return;
  turn?.end(cards[0].text);
  const stopped = failure?.name === "AbortError";
  for (const card of cards) card.end(stopped);
  const seconds = (performance.now() - began) / 1000;
  const rate = tokens ? `: ${tokens} tokens, ${(tokens / seconds).toFixed(1)} per second` : "";
  say(task, `${stopped ? "Stopped" : failure ? "Failed" : "Done"} after ${seconds.toFixed(1)} s${rate}.`);
  if (!failure || stopped) return;
  if (failure.status === 401) askForKey(() => answer(task), failure);
  else showError(failure);
}

// A question and its answer, which come below the earlier ones. `end` keeps them, if there is an answer.
function beginTurn(card) {
  const code = byId("chat-code");
  const question = element("article", { class: "question", "aria-label": "Question" }, code.value);
  const asked = { role: "user", content: code.value };
  part("chat", ".results").append(question, card.root);
  card.root.scrollIntoView({ block: "nearest" });
  code.form.reset(); // empty, and not wrong because of that
  return {
    end(text) {
      if (text) conversation.push(asked, { role: "assistant", content: text });
      else if (!code.value) code.value = asked.content; // to ask again
      if (!text) for (const node of [question, card.root]) node.remove();
    },
  };
}

function showRunning(is) {
  hideToken();
  for (const task of TASKS) {
    const [start, stopper] = [part(task, ".primary"), part(task, ".stop")];
    const focused = document.activeElement;
    part(task, ".alert").hidden = true;
    stopper.disabled = !is;
    start.disabled = is;
    // a button that is switched off loses the focus: the other one gets it
    if (is && focused === start) stopper.focus();
    if (!is && focused === stopper) start.focus();
  }
  if (is) say(running.task, "Generating…");
}

function say(task, words) {
  part(task, ".status").textContent = words;
}

// In all tabs, because the reader may have gone to another one.
function showError(error) {
  if (!(error instanceof ApiError)) console.error(error);
  for (const task of TASKS) {
    const alert = part(task, ".alert");
    alert.textContent = error.message;
    alert.hidden = false;
  }
}

function part(task, selector) {
  return byId(`panel-${task}`).querySelector(selector);
}

// --- forms ---

function setUpForm(task) {
  const form = part(task, "form");
  const code = byId(`${task}-code`);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    answer(task);
  });
  code.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  part(task, ".stop").addEventListener("click", stop);
  part(task, ".clear").addEventListener("click", () => {
    drop(task);
    code.value = "";
    if (LANGUAGE_OF[task]) byId(`${task}-example`).value = "";
    if (task === "complete") byId("complete-suffix").value = "";
    if (task === "chat") conversation = [];
    part(task, ".results").replaceChildren();
    code.focus();
  });
}

function stop() {
  running?.controller.abort();
}

// Ends the task's answer without a trace.
function drop(task) {
  say(task, "");
  if (running?.task !== task) return;
  running.cleared = true;
  stop();
}

function setUpTranslation() {
  part("translate", ".swap").addEventListener("click", () => {
    const [source, target] = [byId("translate-source"), byId("translate-target")];
    [source.value, target.value] = [target.value, source.value];
    const text = part("translate", ".card pre")?.textContent;
    if (text) byId("translate-code").value = text;
  });
}

document.addEventListener("keydown", ({ key }) => {
  if (key !== "Escape") return;
  hideToken();
  stop();
});
document.addEventListener("click", ({ target }) => target.closest("[data-token]") || hideToken());
document.addEventListener("scroll", hideToken, { capture: true, passive: true });
byId("key-change").addEventListener("click", () => askForKey(load));
byId("explain-task").addEventListener("change", ({ target }) => {
  part("explain", ".primary").textContent = target.selectedOptions[0].textContent;
});
byId("settings").open = matchMedia("(min-width: 48rem)").matches;
for (const task of TASKS) setUpForm(task);
setUpTabs();
setUpTranslation();
setUpColours();
load();
