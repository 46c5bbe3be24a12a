// One card for each candidate: its text as highlighted code, shaded by the tokens' probabilities, and what can be done
// with it. Text of the model reaches the page as text nodes only.

import { element, speak } from "./dom.js";
import { highlight } from "./highlight.js";
import { hideToken, showToken, spokenToken } from "./tokens.js";

const SHADES = [
  [0.9, 0, "90 % and more"],
  [0.5, 1, "50 to 90 %"],
  [0.1, 2, "10 to 50 %"],
  [0, 3, "below 10 %"],
];
const FINISH = { stop: "complete", length: "cut at the length" };
const OPEN = "…";
// control characters, changes of the writing direction, characters that are not drawn
const HIDDEN = /((?![\n\t])[\p{Cc}\p{Cf}\p{Default_Ignorable_Code_Point}\u2028\u2029])/u;

export class Card {
  // `language`: of the answer; `before`: the text that it continues; `onUse(text)`: goes on from there, if one can.
  constructor({ number, of, label, language, before = "", shaded = false, onUse = null }) {
    Object.assign(this, { language, before, shaded, text: "", tokens: [], drawn: [], current: -1, stale: false });
    this.reached = { token: 0, characters: 0, units: 0 }; // up to where the tokens' places are known
    const title = of > 1 ? `${label} ${number} of ${of}` : label;
    this.finish = element("p", { class: "finish" }, OPEN);
    const prose = language === null ? "prose" : "";
    this.pre = element("pre", { class: prose, tabindex: "0", role: "group", "aria-label": `${title}: text` });
    const buttons = element("div", { class: "buttons" }, this.#copyButton(title));
    if (onUse) buttons.append(button("Append", `Append to the prompt: ${title}`, () => onUse(this.text)));
    const header = element("header", {}, element("h2", {}, title), buttons);
    this.footer = element("footer", {}, this.finish);
    this.root = element("article", { class: "card", "aria-label": title }, header, this.pre, this.footer);
    if (shaded) this.#addShades();
  }

  // A choice of an answer: all of it or its next piece.
  add(choice) {
    if (choice.logprobs) this.#addTokens(choice.logprobs);
    this.text += choice.text ?? choice.delta?.content ?? ""; // a completion's, a conversation's
    this.#placeTokens();
    if (choice.finish_reason) this.finish.textContent = FINISH[choice.finish_reason] ?? choice.finish_reason;
    this.#drawSoon();
  }

  // Nothing follows. `stopped`: by the user.
  end(stopped) {
    if (this.finish.textContent === OPEN) this.finish.textContent = stopped ? "stopped" : "broken off";
    this.#draw();
  }

  #addTokens({ tokens, token_logprobs: scores, top_logprobs: best, text_offset: places }) {
    this.base ??= places[0] ?? 0; // offsets may count the prompt
    tokens.forEach((text, i) => {
      this.tokens.push({ text, offset: places[i] - this.base, score: scores[i], best: best?.[i] ?? {} });
    });
  }

  // Sets `start` of the tokens whose text has come. The server counts characters, a string here UTF-16 units, of which an
  // emoji takes two.
  #placeTokens() {
    const at = this.reached;
    for (; at.token < this.tokens.length; at.token++) {
      const { offset } = this.tokens[at.token];
      for (; at.characters < offset; at.characters++) {
        if (at.units >= this.text.length) return;
        at.units += this.text.codePointAt(at.units) > 0xffff ? 2 : 1;
      }
      this.tokens[at.token].start = at.units;
    }
  }

  // Soon, and not most of the time: a long answer takes longer to draw.
  #drawSoon() {
    this.stale = true;
    if (this.waiting) return;
    this.waiting = true;
    setTimeout(() => {
      const began = performance.now();
      if (this.stale) this.#draw();
      setTimeout(() => {
        this.waiting = false;
        if (this.stale) this.#drawSoon();
      }, 4 * (performance.now() - began));
    }, 30);
  }

  // Replaces the lines that have changed; the others keep their nodes and what the reader has selected.
  #draw() {
    this.stale = false;
    const lines = this.#lines();
    lines.forEach((parts, row) => {
      const signature = JSON.stringify(parts);
      if (this.drawn[row]?.signature === signature) return;
      const node = element("span", {}, ...parts.map(drawnPart));
      if (this.drawn[row]) this.drawn[row].node.replaceWith(node);
      else this.pre.append(node);
      this.drawn[row] = { signature, node };
    });
    for (const { node } of this.drawn.splice(lines.length)) node.remove();
    this.#markCurrent();
  }

  // Per line, its parts: {text, kind, token, shade}.
  #lines() {
    const lines = [[]];
    for (const part of this.#parts()) {
      part.text.split(/(?<=\n)/).forEach((text, i) => {
        if (i) lines.push([]);
        lines.at(-1).push({ ...part, text });
      });
      if (part.text.endsWith("\n")) lines.push([]);
    }
    return lines;
  }

  *#parts() {
    let place = -this.before.length;
    let token = -1;
    for (const [kind, text] of highlight(this.before + this.text, this.language)) {
      const end = place + text.length;
      for (let start = Math.max(place, 0); start < end; ) {
        while (token + 1 < this.tokens.length && this.tokens[token + 1].start <= start) token++;
        const next = Math.min(end, this.tokens[token + 1]?.start ?? end);
        yield { text: this.text.slice(start, next), kind, token, shade: this.#shade(token) };
        start = next;
      }
      place = end;
    }
  }

  #shade(token) {
    return token < 0 ? 0 : SHADES.find(([least]) => Math.exp(this.tokens[token].score) >= least)[1];
  }

  #copyButton(title) {
    const made = button("Copy", `Copy: ${title}`, async () => {
      const done = await copied(this.text);
      made.firstChild.data = done ? "Copied" : "Not copied";
      speak(done ? `${title} copied` : "The browser does not allow copying");
      setTimeout(() => (made.firstChild.data = "Copy"), 1500);
    });
    return made;
  }

  #addShades() {
    this.pre.classList.add("shaded");
    const legend = SHADES.map(([, shade, words]) => element("span", shade ? { class: `shade-${shade}` } : {}, words));
    this.footer.append(element("p", { class: "legend" }, "probability:", ...legend, "← → move over tokens"));
    this.pre.setAttribute("aria-description", "The arrow keys left and right move over the tokens.");
    for (const kind of ["pointerover", "click"]) { // a touch is over before it is a click
      this.pre.addEventListener(kind, (event) => this.#point(event.target.closest("[data-token]")));
    }
    this.pre.addEventListener("pointerleave", hideToken);
    this.pre.addEventListener("blur", () => this.#move(-1));
    this.pre.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (event.key === "Escape" && this.current >= 0) event.stopPropagation();
      if (event.key === "Escape") this.#move(-1);
      if (!step || event.ctrlKey || event.altKey || event.metaKey || !this.tokens.length) return;
      event.preventDefault();
      this.#move(Math.min(Math.max(this.current + step, 0), this.tokens.length - 1));
    });
  }

  #point(node) {
    if (node) showToken(this.tokens[node.dataset.token], node);
    else hideToken();
  }

  #move(to) {
    this.current = to;
    const node = this.#markCurrent();
    node?.scrollIntoView({ block: "nearest" });
    this.#point(node);
    if (to >= 0) speak(spokenToken(this.tokens[to]));
  }

  // The first node of the current token.
  #markCurrent() {
    for (const node of this.pre.querySelectorAll(".current")) node.classList.remove("current");
    const nodes = this.pre.querySelectorAll(`[data-token="${this.current}"]`);
    for (const node of nodes) node.classList.add("current");
    return nodes[0];
  }
}

function drawnPart({ text, kind, token, shade }) {
  const classes = [kind, shade && `shade-${shade}`, token >= 0 && text === "\n" && "break"].filter(Boolean);
  const pieces = text.split(HIDDEN).map((piece, i) => (i % 2 ? hidden(piece) : piece));
  return element("span", { class: classes.join(" "), ...(token >= 0 ? { "data-token": token } : {}) }, ...pieces);
}

// Such a character, visible by its number and without an effect on the text around it.
function hidden(character) {
  const number = character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
  return element("span", { class: "hidden-character", "data-number": `U+${number}` }, character);
}

function button(words, label, onClick) {
  const made = element("button", { type: "button", class: "quiet", "aria-label": label }, words);
  made.addEventListener("click", onClick);
  return made;
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copiedBySelection(text); // pages over HTTP have no clipboard, but on localhost
  }
}

function copiedBySelection(text) {
  const area = element("textarea", { class: "spoken", "aria-hidden": "true" });
  const focused = document.activeElement;
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return done;
}
