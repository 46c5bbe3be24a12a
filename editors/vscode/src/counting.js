'use strict';

const vscode = require('vscode');
const { Acceptance } = require('./logic/acceptance');
const { acceptancePage } = require('./logic/acceptancePage');
const { preferences } = require('./settings');
const { openPanel, pageOptions } = require('./webview');

const { t } = vscode.l10n;
const KEY = 'acceptance';

/** @param {vscode.Memento} memory of this machine: the counts are sent nowhere */
function counting(memory) {
  const store = {
    read: () => /** @type {import('./logic/acceptance').Counts | undefined} */ (memory.get(KEY)),
    write: (/** @type {object | undefined} */ counts) => memory.update(KEY, counts),
  };
  return new Acceptance(store, () => preferences().countAcceptance);
}

/**
 * A page with the table of what was suggested and accepted.
 * @param {Acceptance} acceptance
 */
function showAcceptance(acceptance) {
  const counts = acceptance.counts;
  const off = t('Suggestions are not counted. The setting msCodegeex.countAcceptance turns counting on; the counts stay here.');
  const on = t('Counted since {0}, on this machine only. A suggestion counts once, however often it is shown.', counts.since);
  const title = t('Accepted Suggestions');
  const words = {
    title,
    said: preferences().countAcceptance ? on : off,
    heads: [t('Language'), t('Suggested'), t('Accepted'), t('Share'), t('Characters accepted')],
    sum: t('All'),
  };
  openPanel('acceptance', title, { scripts: false }).webview.html = acceptancePage(counts, { ...words, ...pageOptions() });
}

module.exports = { counting, showAcceptance };
