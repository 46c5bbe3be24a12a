// Loaded before the program. Runs its tests with the original console, JSON and Math, whatever the program does with
// these names; counts failed assertions, and prints the witness after the tests if there were none.
'use strict'
const fs = require('fs')
const challenge = fs.readFileSync(0, 'utf8').trim()
const write = fs.writeSync
const original = console.assert
const { apply, ownKeys, getOwnPropertyDescriptor: describe } = Reflect
const { defineProperty, freeze, is } = Object
const stringify = JSON.stringify
let failures = 0

const copy = (object) => {
  const found = {}
  for (const key of ownKeys(object)) defineProperty(found, key, describe(object, key))
  return freeze(found)
}

// All built-in functions, with their original values.
const watched = []
const seen = new Set()
const watch = (object) => {
  if (object === null || (typeof object !== 'object' && typeof object !== 'function') || seen.has(object)) return
  seen.add(object)
  for (const key of ownKeys(object)) {
    const { value, get, set } = describe(object, key)
    if (typeof value !== 'function' && !get && !set) continue
    watched.push([object, key, value, get, set])
    if (value) watch(value.prototype)
  }
}
const KINDS = [
  'Object', 'Function', 'Array', 'String', 'Number', 'Boolean', 'Symbol', 'BigInt', 'Date', 'RegExp', 'Map', 'Set',
  'Error', 'Promise', 'Math', 'JSON', 'Reflect', 'parseInt', 'parseFloat', 'isNaN', 'isFinite'
]
const built = freeze(KINDS.map((name) => [name, globalThis[name]]))
for (const [, value] of built) {
  watch(value)
  watch(value.prototype)
}
const prototypes = freeze([Object, Function, Array, String, Number, Boolean, BigInt, Symbol].map((kind) => kind.prototype))

const changed = () => {
  for (let at = 0; at < watched.length; at += 1) {
    const [object, key, value, get, set] = watched[at]
    const now = describe(object, key)
    if (!now || !is(now.value, value) || now.get !== get || now.set !== set) return true
  }
  for (let at = 0; at < built.length; at += 1) if (globalThis[built[at][0]] !== built[at][1]) return true
  for (let at = 0; at < prototypes.length; at += 1) if (describe(prototypes[at], 'toJSON')) return true
  return false
}

function counting(condition, ...rest) {
  if (!condition) failures += 1
  return apply(original, console, [condition, ...rest])
}

// An object that defines its own JSON can imitate the expected value.
const pretends = (value, depth) => {
  if (value === null || typeof value !== 'object' || depth === 0) return typeof value === 'function'
  if (value.toJSON !== undefined) return true
  const keys = ownKeys(value)
  for (let at = 0; at < keys.length; at += 1) if (pretends(value[keys[at]], depth - 1)) return true
  return false
}

const shown = (value, ...rest) => {
  if (pretends(value, 20) || changed()) failures += 1
  return stringify(value, ...rest)
}

const assertions = freeze({ ...console, assert: counting })
const json = freeze({ parse: JSON.parse, stringify: shown })
const math = copy(Math)

defineProperty(globalThis, 'ms_codegeex_tests', {
  value: (token, tests) => {
    if (changed()) failures += 1
    tests(assertions, json, math)
    if (changed()) failures += 1
    if (failures === 0) write(1, `witness-${token}-${challenge}\n`)
  }
})
