// Loaded before the program: counts failed assertions, and says at the tests' end that there were none.
'use strict'
const fs = require('fs')
const challenge = fs.readFileSync(0, 'utf8').trim()
const write = fs.writeSync
const original = console.assert
let failures = 0

function counting(condition, ...rest) {
  if (!condition) failures += 1
  return original.call(console, condition, ...rest)
}

console.assert = counting
Object.defineProperty(globalThis, 'ms_codegeex_tests_ended', {
  value: (token, called) => {
    if (failures === 0 && called === counting) write(1, `witness-${token}-${challenge}\n`)
  }
})
