// A card next to a token: its probability, and the likeliest tokens in its place.

import { byId, element } from "./dom.js";

function percent(score) {
  const value = 100 * Math.exp(score);
  return value < 0.05 ? "below 0.1 %" : `${value.toFixed(1)} %`;
}

const visible = (text) => JSON.stringify(text).slice(1, -1).replaceAll('\\"', '"').replaceAll(" ", "␣");

export function showToken(token, node) {
  const card = byId("token");
  const rows = Object.entries({ [token.text]: token.score, ...token.best }).sort(([, a], [, b]) => b - a);
  card.replaceChildren(
    element("p", {}, `probability ${percent(token.score)}`),
    element("ol", {}, ...rows.map(([text, score]) => row(text, score, text === token.text))),
  );
  card.hidden = false;
  const at = node.getClientRects()[0] ?? node.getBoundingClientRect();
  const size = card.getBoundingClientRect();
  const below = at.bottom + 6 + size.height < innerHeight;
  card.style.left = `${Math.max(8, Math.min(at.left, document.documentElement.clientWidth - size.width - 8))}px`;
  card.style.top = `${below ? at.bottom + 6 : Math.max(8, at.top - 6 - size.height)}px`;
}

export function hideToken() {
  byId("token").hidden = true;
}

export function spokenToken(token) {
  const others = Object.entries(token.best).filter(([text]) => text !== token.text);
  const words = others.slice(0, 3).map(([text, score]) => `${visible(text)} ${percent(score)}`);
  return `${visible(token.text)}, ${percent(token.score)}${words.length ? `; else ${words.join(", ")}` : ""}`;
}

function row(text, score, chosen) {
  const made = element("li", chosen ? { class: "chosen" } : {}, element("code", {}, visible(text)), chance(score));
  made.style.setProperty("--share", `${100 * Math.exp(score)}%`);
  return made;
}

function chance(score) {
  return element("span", { class: "chance" }, percent(score));
}
