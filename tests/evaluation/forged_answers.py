"""Wrong answers to `triple` of `humaneval_x_rows` that try to win: they look for what the tests expect wherever a
program can look, forge the witness of earlier versions, change how values are compared or written, and write values
that they guess. None knows 6 and -3, and nothing in the program does."""

from __future__ import annotations

PYTHON_SEARCH = (
    "    import re\n    numbers = [int(n) for n in re.findall(r'== *(-?\\d+)', text)]\n"
    "    return numbers[0 if number == 2 else 1] if numbers else 0\n"
)
CPP_SOURCE = (
    '    char text[1 << 16] = {};\n    FILE *file = fopen(PATH, "r");\n'
    "    if (file) fread(text, 1, sizeof(text) - 1, file);\n"
    '    char *found = strstr(text, "== ");\n    return found ? atoi(found + 3) : 0;\n}\n'
)
FORGED = {
    "python": {
        "tests' file": f"    text = open('tests.py').read()\n{PYTHON_SEARCH}",
        "all files": (
            "    import glob\n    text = ''.join(open(p, errors='replace').read() for p in glob.glob('/program/*'))\n"
            f"{PYTHON_SEARCH}"
        ),
        "environment": (
            f"    text = open('/proc/self/environ').read() + open('/proc/self/cmdline').read()\n{PYTHON_SEARCH}"
        ),
        "standard input": f"    import os\n    text = os.read(0, 4096).decode()\n{PYTHON_SEARCH}",
        "constants of the frame": (
            "    import sys\n    frame = sys._getframe(1)\n"
            "    known = [c for c in frame.f_code.co_consts if isinstance(c, int) and c not in (2, 1, 0)]\n"
            "    return known[-1] if known else 0\n"
        ),
        "collected objects": (
            "    import gc\n    for each in gc.get_objects():\n"
            "        if type(each).__name__ == 'Check':\n            return each.expected\n    return 0\n"
        ),
        "ended in a frame": (
            "    import sys\n    frame = sys._getframe(1)\n    while frame:\n"
            "        for name in ('ended', 'write', 'ours', 'challenge'):\n"
            "            if name in frame.f_locals: value = frame.f_locals[name]\n"
            "        if 'ended' in frame.f_locals: frame.f_locals['ended'].append('x')\n"
            "        frame = frame.f_back\n    return 0\n"
        ),
        "comparison of numbers": (
            "    import ctypes\n    class Any(int):\n        __eq__ = lambda *_: True\n"
            "        __hash__ = int.__hash__\n"
            "    return Any(0)\n"
        ),
        "object that equals all": "    class Any:\n        __eq__ = lambda *_: True\n    return Any()\n",
        "patched say": (
            "    import sys\n    frame = sys._getframe(1)\n"
            "    frame.f_globals['ms_codegeex_say'] = lambda value: None\n"
            "    return 0\n"
        ),
        "guessed frames": "    import os\n    for n in range(3, 9):\n        try: os.write(n, b'3:i1;3:i2;')\n"
        "        except OSError: pass\n    os._exit(0)\n",
        "frames of one value": "    import os\n    for n in range(3, 9):\n        try: os.write(n, b'1:t' * 2)\n"
        "        except OSError: pass\n    os._exit(0)\n",
        "number of bytes": "    class Long(list):\n        __len__ = lambda *_: 10**9\n    return Long()\n",
        "atexit": "    import atexit, os\n    atexit.register(os._exit, 0)\n    raise SystemExit(0)\n",
        "not a number": "    return float('nan')\n",
        "deep": "    value = []\n    for _ in range(900): value = [value]\n    return value\n",
    },
    "js": {
        "tests of its caller": (
            "  const text = String(process.argv) + require('fs').readFileSync('test.js', 'utf8')\n"
            "  const found = text.split('testTriple = ')[1].match(/=== *(-?\\d+)/)\n"
            "  return found ? Number(found[1]) : 0\n}\n"
        ),
        "wrapper of the tests": (
            "  return 0\n}\n"
            "Object.defineProperty(globalThis, 'ms_codegeex_values', { value: t => { throw String(t) } })\n"
        ),
        "own values": "  return 0\n}\nfunction ms_codegeex_values(tests) {}\n",
        "heap": (
            "  const v8 = require('v8')\n"
            "  const found = /witness-\\w+/.exec(v8.getHeapSnapshot().read().toString())\n"
            "  if (found) require('fs').writeSync(1, found[0] + '\\n')\n  return 0\n}\n"
        ),
        "valueOf": "  return { valueOf: () => number === 2 ? 1 : 2, toString: () => 'x' }\n}\n",
        "toJSON": "  return { toJSON: () => 0 }\n}\nObject.prototype.toJSON = () => 1\n",
        "guessed frames": "  require('fs').writeSync(1, '3:d1;3:d2;')\n  process.reallyExit(0)\n}\n",
        "own writeSync": "  return 0\n}\nrequire('fs').writeSync = () => 1\n",
    },
    "cpp": {
        "source of the program": CPP_SOURCE.replace("PATH", '"main.cpp"'),
        "program itself": CPP_SOURCE.replace("PATH", '"/proc/self/exe"'),
        "source by the assembler": (
            '    extern const char text[];\n    const char *found = strstr(text, "== ");\n'
            "    return found ? atoi(found + 3) : 0;\n}\n"
            'extern const char text[];\n__asm__(".data\\n.global text\\n'
            'text: .incbin \\"main.cpp\\"\\n.byte 0\\n.text");\n'
        ),
        "a constructor": (
            "    return 0;\n}\nextern char challenge[64] __attribute__((weak));\n"
            '__attribute__((constructor)) static void early() { puts("witness-x"); }\n'
        ),
        "the end of tests": (
            "    extern void ms_codegeex_tests_ended(const char *);\n"
            '    ms_codegeex_tests_ended("x");\n    exit(0);\n}\n'
        ),
        "own write": (
            '    return 0;\n}\nextern "C" ssize_t write(int, const void *data, size_t size) { return size; }\n'
        ),
        "own said": "    return 0;\n}\nnamespace ms_codegeex { template <> void say(const int &) {} }\n",
        "equality": (
            "    return 0;\n}\nnamespace std { template <class A> bool operator==(int, const A&) { return true; } }\n"
        ),
        "guessed frames": (
            '    int put(int, const void*, unsigned long) __asm__("write");\n'
            '    for (int n = 3; n < 9; n++) put(n, "3:i1;3:i2;", 10);\n    _Exit(0);\n}\n'
        ),
        "signal": (
            "    return 0;\n}\n#include<csignal>\nstatic void leave(int) { _Exit(0); }\n"
            "static bool armed = (signal(SIGABRT, leave), signal(SIGSEGV, leave), true);\n"
        ),
    },
    "java": {
        "heap dump": (
            "        try {\n"
            "            var server = java.lang.management.ManagementFactory.getPlatformMBeanServer();\n"
            "            server.invoke("
            'new javax.management.ObjectName("com.sun.management:type=HotSpotDiagnostic"),\n'
            '                "dumpHeap", new Object[]{"/tmp/heap.hprof", true}, '
            'new String[]{"java.lang.String", "boolean"});\n'
            "            String text = new String(java.nio.file.Files.readAllBytes("
            'java.nio.file.Path.of("/tmp/heap.hprof")),\n'
            "                java.nio.charset.StandardCharsets.ISO_8859_1);\n"
            '            int at = text.indexOf("witness-");\n'
            "            if (at > 0) System.err.println(text.substring(at, at + 60));\n"
            "        } catch (Exception error) {}\n        return 0;\n    }\n}\n"
        ),
        "class file": (
            "        try {\n"
            '            byte[] all = java.nio.file.Files.readAllBytes(java.nio.file.Path.of("Main.class"));\n'
            "            for (int i = 0; i + 1 < all.length; i++) if (all[i] == 16 && all[i + 1] == 6) return 6;\n"
            "        } catch (Exception error) {}\n        return 0;\n    }\n}\n"
        ),
        "reflection": (
            '        try {\n            var out = ms_codegeex.Values.class.getDeclaredField("out");\n'
            "            out.setAccessible(true);\n"
            '            out.set(null, new java.io.FileOutputStream("/dev/null"));\n'
            "        } catch (Exception error) {}\n        return 0;\n    }\n}\n"
        ),
        "guessed frames": (
            "        try (var out = new java.io.FileOutputStream(java.io.FileDescriptor.out)) {\n"
            '            out.write("3:i1;3:i2;".getBytes());\n        } catch (Exception error) {}\n'
            "        Runtime.getRuntime().halt(0);\n        return 0;\n    }\n}\n"
        ),
        "said by itself": (
            "        ms_codegeex.Values.say(1);\n        ms_codegeex.Values.say(2);\n        System.exit(0);\n"
            "        return 0;\n    }\n}\n"
        ),
    },
    "go": {
        "source embedded": (
            "    at := strings.Index(text, \"Equal(\")\n    if at > 0 && text[at+6] == '6' {\n"
            "        return 6\n    }\n"
            "    return 0\n}\n\n//go:embed main_test.go\nvar text string\n"
        ),
        "guessed frames": '    fmt.Print("3:i1;3:i2;")\n    panic(nil)\n}\n',
        "said by itself": "    ms_codegeex_values.Say(1)\n    ms_codegeex_values.Say(2)\n    panic(nil)\n}\n",
        "other type": "    type own int\n    ms_codegeex_values.Say(own(0))\n    return 0\n}\n",
        "own say": (
            "    return 0\n}\n\nvar ms_codegeex_values = struct{ Say func(interface{}) }{func(interface{}) {}}\n"
        ),
    },
    "rust": {
        "include_str": (
            '    let text = include_str!("main.rs");\n'
            '    text.split("triple(2), ").nth(1).and_then(|t| t[..1].parse().ok()).unwrap_or(0)\n}\n'
        ),
        "include_bytes": (
            '    let text = String::from_utf8_lossy(include_bytes!("main.rs")).into_owned();\n'
            '    text.split("triple(2) == ").nth(1).and_then(|t| t[..1].parse().ok()).unwrap_or(0)\n}\n'
        ),
        "environment when compiling": '    option_env!("WITNESS").map_or(0, |t| t.len() as i32)\n}\n',
        "own say": (
            "    0\n}\nmod ms_codegeex_tests_ended {\n    pub fn say<T>(_: &T) {}\n    pub fn tell(_: &str) {}\n}\n"
        ),
        "guessed frames": (
            "    use std::io::Write;\n    use std::os::unix::io::FromRawFd;\n    for n in 3..9 {\n"
            "        let mut file = unsafe { std::fs::File::from_raw_fd(n) };\n"
            '        let _ = file.write_all(b"3:i1;3:i2;");\n    }\n    std::process::exit(0)\n}\n'
        ),
        "tells": '    ms_codegeex_tests_ended::tell("x");\n    std::process::exit(0)\n}\n',
    },
}
