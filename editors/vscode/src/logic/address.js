'use strict';

/**
 * A server's address as the requests need it: without a path's end, and without the `/v1` that other clients want.
 * @param {string} text
 * @returns {string | undefined} undefined: it is none
 */
function addressOf(text) {
  const trimmed = text.trim();
  if (!/^https?:$/.test(URL.canParse(trimmed) ? new URL(trimmed).protocol : '')) return undefined;
  return trimmed.replace(/\/+(?:v1\/*)?$/, '');
}

module.exports = { addressOf };
