-- Loaded before the program (`lua -l`, which makes the result a global function). It prints the witness, whose second
-- half, from standard input, no other code can read: of `debug`, which could, only what luaunit needs remains.
local challenge = io.stdin:read("*l")
local out, write, flush = io.stdout, io.stdout.write, io.stdout.flush
debug = { traceback = debug.traceback }
package.loaded.debug = debug

return function(token)
  write(out, "\nwitness-", token, "-", challenge, "\n")
  flush(out)
end
