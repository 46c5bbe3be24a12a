// Small helpers: elements without HTML strings, and words for screen readers.

export const byId = (id) => document.getElementById(id);

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== "") made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export function speak(words) {
  byId("spoken").textContent = words;
}
