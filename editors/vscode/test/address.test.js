'use strict';

const assert = require('node:assert/strict');
const test = require('node:test');
const { addressOf } = require('../src/logic/address');

test('an address is taken as people write it', () => {
  for (const text of ['http://h:8000', ' http://h:8000/ ', 'http://h:8000/v1', 'http://h:8000/v1/', 'http://h:8000//v1//']) {
    assert.equal(addressOf(text), 'http://h:8000', text);
  }
  assert.equal(addressOf('https://h/models/v1'), 'https://h/models');
  assert.equal(addressOf('https://h/v10'), 'https://h/v10');
});

test('what is not an address of a server is none', () => {
  for (const text of ['', 'localhost', 'localhost:8000', 'file:///etc/passwd', 'javascript:alert(1)', 'h 8000']) {
    assert.equal(addressOf(text), undefined, text);
  }
});
