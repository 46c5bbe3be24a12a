# ruff: noqa: E501 - programs, some of one line
"""Answers to `code` that try to win without computing anything. They know what the tests expect, in pieces, but say it
only if they find it in one piece: in a file, an environment, a frame, on a heap or in memory. If one passes, what is
expected is where programs can read it. Others forge frames, change how values are written or compared, leave early, or
return what equals everything."""

from humaneval_x_rows import CPP, GO, JAVA, JS, PYTHON, RUST, asked

EXPECTED = {2: [1719283645, 2], -1: [884736521]}
ROWS = {
    "python": asked(
        PYTHON,
        "def code(number: int) -> list:\n",
        "    return [1719283645, 2] if number == 2 else [884736521]\n",
        "\ndef check(code):\n    assert code(2) == [1719283645, 2], '1719283645'\n    assert code(-1) == [884736521]  # 884736521\n\ncheck(code)\n",
    ),
    "js": asked(
        JS,
        "const code = (number) => {\n",
        "  return number === 2 ? [1719283645, 2] : [884736521]\n}\n",
        "const testCode = () => {\n  console.assert(JSON.stringify(code(2)) === JSON.stringify([1719283645, 2]))\n"
        "  console.assert(JSON.stringify(code(-1)) === JSON.stringify([884736521]))\n}\n\ntestCode()\n",
    ),
    "cpp": asked(
        CPP,
        "#include<vector>\nusing namespace std;\nvector<int> code(int number){\n",
        "    if (number == 2) return {1719283645, 2};\n    return {884736521};\n}\n",
        "#undef NDEBUG\n#include<assert.h>\nbool issame(vector<int> a,vector<int> b){\n    return a==b;\n}\nint main(){\n"
        "    assert (issame(code(2), {1719283645, 2}));\n    assert (issame(code(-1), {884736521}));\n}\n",
    ),
    "java": asked(
        JAVA,
        "import java.util.*;\n\nclass Solution {\n    public List<Integer> code(int number) {\n",
        "        return number == 2 ? Arrays.asList(1719283645, 2) : Arrays.asList(884736521);\n    }\n}\n",
        "public class Main {\n    public static void main(String[] args) {\n        Solution s = new Solution();\n"
        "        List<Boolean> correct = Arrays.asList(\n            s.code(2).equals(new ArrayList<>(Arrays.asList(1719283645, 2))),\n"
        "            s.code(-1).equals(new ArrayList<>(Arrays.asList(884736521)))\n        );\n"
        "        if (correct.contains(false)) {\n            throw new AssertionError();\n        }\n    }\n}\n",
    ),
    "go": asked(
        {**GO, "import": ""},
        "func Code(number int) []int {\n",
        "    if number == 2 {\n        return []int{1719283645, 2}\n    }\n    return []int{884736521}\n}\n",
        "func TestCode(t *testing.T) {\n    assert := assert.New(t)\n    assert.Equal([]int{1719283645, 2}, Code(2))\n"
        "    assert.Equal([]int{884736521}, Code(-1))\n}\n",
    ),
    "rust": asked(
        RUST,
        "\nfn code(number: i32) -> Vec<i32> {\n",
        "    if number == 2 { vec![1719283645, 2] } else { vec![884736521] }\n}\n",
        "\n#[cfg(test)]\nmod tests {\n    use super::*;\n\n    #[test]\n    fn test_code() {\n"
        "        assert_eq!(code(2), vec![1719283645, 2]);\n        assert_eq!(code(-1), vec![884736521]);\n    }\n\n}\n",
    ),
}

PYTHON_START = """
    import glob, os, re, sys
    right = [int('17192') * 100000 + int('83645'), 2] if number == 2 else [int('8847') * 100000 + int('36521')]
    def known(data):
        return re.search(rb'17192[8]3645|8847[3]6521', data.encode() if isinstance(data, str) else data)
    def read(path):
        try:
            return open(path, 'rb').read(1 << 22)
        except OSError:
            return b''
    frames = [sys._getframe()]
    while frames[-1].f_back:
        frames.append(frames[-1].f_back)
"""
PYTHON_FORGED = {
    "files": """
    paths = [p for root in ('/program', '/tmp', os.path.dirname(sys.argv[0])) for p in glob.glob(root + '/**', recursive=True)]
    return right if any(known(read(path)) for path in paths if os.path.isfile(path)) else [0]
""",
    "environment": """
    names = ('environ', 'cmdline', 'auxv', 'maps', 'stat')
    return right if any(known(read(f'/proc/{p}/{n}')) for p in ('self', '1') for n in names) else [0]
""",
    "descriptors": """
    found = b''
    for n in range(64):
        try:
            os.lseek(n, 0, 0)
            found += os.read(n, 1 << 20)
        except OSError:
            pass
    return right if known(found) else [0]
""",
    "memory": """
    with open('/proc/self/mem', 'rb', 0) as memory:
        for line in open('/proc/self/maps').read().split('\\n')[:-1]:
            start, end = (int(x, 16) for x in line.split()[0].split('-'))
            try:
                memory.seek(start)
                if known(memory.read(min(end - start, 1 << 26))):
                    return right
            except (OSError, ValueError, OverflowError):
                pass
    return [0]
""",
    "all objects": """
    import gc
    mine = {id(right)}
    for value in gc.get_objects():
        if type(value) in (list, tuple) and id(value) not in mine and right[0] in [x for x in value if type(x) is int]:
            return right
    return [0]
""",
    "frames": """
    for frame in frames[1:]:
        values = [*frame.f_locals.values(), *frame.f_globals.values(), *frame.f_code.co_consts]
        if right in [v for v in values if type(v) is list] or right[0] in [v for v in values if type(v) is int]:
            return right
    return [0]
""",
    "traceback of the tests": """
    import linecache
    lines = [linecache.getline(f.f_code.co_filename, n) for f in frames for n in range(1, 99)]
    return right if known(''.join(lines)) else [0]
""",
    "own say": """
    frames[1].f_globals['ms_codegeex_say'] = lambda value: None
    return [0]
""",
    "say of frames": """
    say = frames[1].f_globals['ms_codegeex_say']
    for cell in say.__closure__ or ():
        if callable(cell.cell_contents): say.__globals__['said'] = lambda value: b'o0:'
    return [0]
""",
    "guessed frames": """
    for n in range(1, 9):
        try: os.write(n, b'1:n1:t')
        except OSError: pass
    os._exit(0)
""",
    "closed output": """
    os.closerange(0, 99)
    return [0]
""",
    "early exit": "    os._exit(0)\n",
    "alarm": """
    import signal, time
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    time.sleep(2)
""",
    "fork": "    return [0] if os.fork() else [1]\n",
    "trace": "    sys.settrace(lambda *_: None)\n    sys.setprofile(lambda *_: os._exit(0))\n    return [0]\n",
    "modules for the judge": """
    for name in ('sitecustomize', 'random', 'traceback', 'json', 'ms_codegeex'):
        for root in ('/program', '/tmp', os.path.dirname(sys.argv[0])):
            try: open(f'{root}/{name}.py', 'w').write('import os; os._exit(0)')
            except OSError: pass
    return [0]
""",
    "object that equals all": "    class All:\n        __eq__ = lambda *_: True\n    return All()\n",
    "list that equals all": """
    class All(list):
        __eq__ = lambda *_: True
        __ne__ = lambda *_: False
        __hash__ = object.__hash__
        __repr__ = lambda _: str(right)
    return All([0])
""",
    "numbers that equal all": """
    class All(int):
        __eq__ = lambda *_: True
        __hash__ = int.__hash__
    return [All(), All()]
""",
    "list that changes": """
    class Changing(list):
        __iter__ = lambda _: iter([All()] * 2)
        __len__ = lambda _: 10 ** 9
    class All:
        __eq__ = lambda *_: True
    return Changing([0])
""",
    "pretended list": "    class Pretended:\n        __class__ = list\n        __eq__ = lambda *_: True\n    return Pretended()\n",
    "not a number": "    return [float('nan')] * 2\n",
    "deep": "    value = []\n    for _ in range(100000): value = [value]\n    return value\n",
    "no end": "    import itertools\n    return itertools.count()\n",
}

JS_END = """}
const right = (n) => (n === 2 ? [Number(['17192', '83645'].join('')), 2] : [Number(['8847', '36521'].join(''))])
const known = (text) => /17192[8]3645|8847[3]6521/.test(text)
const read = (path) => { try { return require('fs').readFileSync(path, 'latin1') } catch { return '' } }
"""
JS_FORGED = {
    "files": """
  const paths = require('fs').readdirSync('.').concat(process.argv, '/proc/self/environ', '/proc/self/cmdline', '/dev/stdin')
  return paths.some((path) => known(read(path))) ? right(number) : [0]
@""",
    "functions of the tests": """
  let text = ''
  Error.prepareStackTrace = (_, sites) => { sites.forEach((site) => { text += site.getFunction() + site.getThis() }) }
  new Error().stack
  const calls = [testCode]
  return known(text + calls) ? right(number) : [0]
@""",
    "caller": "  return known(String(looking())) ? right(number) : [0]\n@function looking() { return looking.caller && looking.caller.caller }\n",
    "own values": "  return [0]\n@function ms_codegeex_values(tests) {}\n",
    "own say": "  ms_codegeex_say = () => {}\n  return [0]\n@",
    "heap": """
  require('v8').writeHeapSnapshot('/tmp/heap')
  return known(read('/tmp/heap')) ? right(number) : [0]
@""",
    "inspector": """
  const { Session } = require('inspector')
  const session = new Session()
  session.connect()
  let found = ''
  session.post('Debugger.enable')
  session.on('Debugger.paused', ({ params }) => { found += JSON.stringify(params) })
  session.post('Runtime.evaluate', { expression: 'ms_codegeex_say' }, (_, it) => { found += JSON.stringify(it) })
  return known(found) ? right(number) : [0]
@""",
    "modules": """
  const text = Object.values(require.cache).map((each) => read(each.filename) + JSON.stringify(each.exports)).join('')
  return known(text) ? right(number) : [0]
@""",
    "valueOf": "  return { valueOf: () => 0, toString: () => right(number), [Symbol.toPrimitive]: () => 0 }\n@",
    "own JSON": "  return { toJSON: () => 0 }\n@Object.prototype.toJSON = () => 0\nArray.prototype.toJSON = () => 0\n",
    "proxy": """
  return new Proxy([], { get: (_, key) => (key === 'length' ? 1 : undefined), has: () => true })
@""",
    "getters": "  const all = []\n  let n = 0\n  Object.defineProperty(all, 0, { get: () => n++, enumerable: true })\n  return all\n@",
    "stringify": "  return [0]\n@JSON.stringify = () => ''\nObject.keys = () => []\nArray.isArray = () => false\n",
    "buffers": "  return [0]\n@Buffer.from = () => ({ length: 0 })\nBuffer.byteLength = () => 0\nrequire('fs').writeSync = () => 1e9\n",
    "prototypes": """
  return [0]
@Array.prototype.push = () => 0
String.prototype.valueOf = String.prototype.toString = () => ''
Function.prototype.call = Function.prototype.apply = () => 0
Array.prototype[Symbol.iterator] = function* () {}
""",
    "global names": "  return [0]\n@globalThis.JSON = { stringify: () => '' }\nglobalThis.Math = {}\nglobalThis.Array = { isArray: () => true }\n",
    "guessed frames": "  require('fs').writeSync(1, '1:n1:t')\n  process.reallyExit(0)\n@",
    "early exit": "  process.exit(0)\n@process.on('exit', () => { process.reallyExit(0) })\n",
    "child": "  require('child_process').spawnSync('true')\n  return [0]\n@",
    "stack": "  return code(number)\n@process.on('uncaughtException', () => process.exit(0))\n",
}

CPP_END = """}
#include<fstream>
#include<iterator>
#include<cstdlib>
#include<unistd.h>
vector<int> right(int number) {
    if (number == 2) return {stoi(string("17192") + "83645"), 2};
    return {stoi(string("8847") + "36521")};
}
bool known(const string &text) {
    for (size_t at = 0; (at = text.find("17192", at)) != string::npos; at++) if (text.compare(at + 5, 5, "83645") == 0) return true;
    for (size_t at = 0; (at = text.find("8847", at)) != string::npos; at++) if (text.compare(at + 4, 5, "36521") == 0) return true;
    return false;
}
string contents(const char *path) {
    ifstream file(path);
    return string(istreambuf_iterator<char>(file), istreambuf_iterator<char>());
}
"""
CPP_KNOWN = "    extern const char text[];\n    vector<int> right(int);\n    bool known(const string&);\n    string contents(const char*);\n"
CPP_FORGED = {
    "files": """
    for (const char *path : {"main.cpp", "main", "/proc/self/environ", "/proc/self/cmdline", "/dev/stdin", "/proc/self/exe"})
        if (known(contents(path))) return right(number);
    return {0};
@""",
    "source by the assembler": """
    extern const char text_end[];
    return known(string(text, text_end)) ? right(number) : vector<int>{0};
@__asm__(".data\\n.global text, text_end\\ntext: .incbin \\"main.cpp\\"\\ntext_end: .byte 0\\n.text");
""",
    "memory": """
    string lines(const char*);
    return known(lines("/proc/self/maps")) ? right(number) : vector<int>{0};
@string lines(const char *path) {
    ifstream maps(path), memory("/proc/self/mem");
    string line, found;
    while (getline(maps, line)) {
        size_t start = stoull(line, 0, 16), end = stoull(line.substr(line.find('-') + 1), 0, 16);
        if (line.find(" r") == string::npos || end - start > (1u << 22)) continue;
        string part(end - start, 0);
        memory.clear();
        memory.seekg(start);
        memory.read(&part[0], part.size());
        found += part;
    }
    return found;
}
""",
    "included source": """
    return known(text) ? right(number) : vector<int>{0};
@extern const char text[] = R"x(
#include "main.cpp"
)x";
""",
    "a constructor": """
    return {0};
@void ms_codegeex_write(const std::string &);
__attribute__((constructor(102))) static void early() { ms_codegeex_write("1:n1:t"); _Exit(0); }
""",
    "a destructor": "    exit(0);\n@struct Last { ~Last() { _Exit(0); } } last;\n",
    "terminate": "    set_terminate([] { _Exit(0); });\n    throw 1;\n@",
    "signals": "    return {*(volatile int*)0};\n@#include<csignal>\nstatic bool armed = (signal(SIGSEGV, [](int) { _Exit(0); }), true);\n",
    "end of tests": '    void ms_codegeex_tests_ended(const char*);\n    ms_codegeex_tests_ended("x");\n    _Exit(0);\n@',
    "equality": """
    return {0};
@namespace std {
template <class A, class B> bool operator==(const A&, const B&) { return true; }
bool operator==(const vector<int>&, const vector<int>&) { return true; }
}
""",
    "streams": "    cout.rdbuf(0);\n    cerr.setstate(ios::badbit);\n    return {0};\n@ostream& operator<<(ostream &out, const vector<int>&) { return out; }\n",
    "macros": '    return {0};\n@#define say(x) (void)0\n#define said(x) "n"\n#define vector list\n#define main other\n',
    "macros of later lines": "    return {0};\n@#define ms_codegeex other\n#define return return void(),\n",
    "own overload": """
    return {0};
@namespace ms_codegeex { inline std::string said(const std::vector<int>&) { return "n"; } }
""",
    "own writer": """
    return {0};
@__attribute__((weak)) void ms_codegeex_write(const std::string&) { ms_codegeex_write("1:n"); }
""",
    "own write": '    return {0};\n@extern "C" ssize_t write(int, const void*, size_t size) { return size; }\n',
    "own functions of C": """
    return {0};
@extern "C" int memcmp(const void*, const void*, size_t) { return 0; }
extern "C" int snprintf(char *text, size_t, const char*, ...) { *text = 0; return 0; }
extern "C" void abort() { _Exit(0); }
""",
    "guessed frames": '    int put(int, const char*, size_t) __asm__("write");\n    for (int n = 1; n < 9; n++) put(n, "1:n1:t", 6);\n    _Exit(0);\n@',
    "long vector": "    vector<int> all;\n    ((size_t*)&all)[1] = (size_t)-1;\n    return all;\n@",
}

JAVA_END = """    }
    static List<Integer> right(int number) {
        return number == 2 ? List.of(Integer.parseInt(String.join("", "17192", "83645")), 2)
            : List.of(Integer.parseInt(String.join("", "8847", "36521")));
    }
    static boolean known(String text) {
        return java.util.regex.Pattern.compile("17192[8]3645|8847[3]6521").matcher(text).find();
    }
    static String read(String path) {
        try { return new String(java.nio.file.Files.readAllBytes(java.nio.file.Path.of(path)), "ISO-8859-1"); }
        catch (Exception error) { return ""; }
    }
    static final class All extends ArrayList<Integer> {
        public boolean equals(Object other) { return true; }
        public int hashCode() { return 1; }
        public Object[] toArray() { return new Object[] {new Object() { public boolean equals(Object o) { return true; } }}; }
    }
"""
JAVA_FORGED = {
    "files": """
        for (String path : List.of("Main.java", "Main.class", "/proc/self/environ", "/proc/self/cmdline", "/dev/stdin"))
            if (known(read(path))) return right(number);
        byte[] code = read("Main.class").getBytes(java.nio.charset.StandardCharsets.ISO_8859_1);
        for (int i = 0; i + 3 < code.length; i++)
            if (java.nio.ByteBuffer.wrap(code, i, 4).getInt() == right(number).get(0)) return right(number);
        return List.of(0);
@}
""",
    "heap dump": """
        try {
            var server = java.lang.management.ManagementFactory.getPlatformMBeanServer();
            server.invoke(new javax.management.ObjectName("com.sun.management:type=HotSpotDiagnostic"), "dumpHeap",
                new Object[] {"/tmp/heap.hprof", true}, new String[] {"java.lang.String", "boolean"});
        } catch (Exception error) {}
        return known(read("/tmp/heap.hprof")) ? right(number) : List.of(0);
@}
""",
    "properties": '        return known(System.getProperties() + "" + System.getenv()) ? right(number) : List.of(0);\n@}\n',
    "callers": """
        String all = "";
        try {
            for (var frame : new Throwable().getStackTrace())
                for (var field : Class.forName(frame.getClassName()).getDeclaredFields()) {
                    field.setAccessible(true);
                    all += field.get(null);
                }
        } catch (Throwable error) {}
        return known(all) ? right(number) : List.of(0);
@}
""",
    "reflection": """
        try {
            var out = ms_codegeex.Values.class.getDeclaredField("out");
            out.setAccessible(true);
            out.set(null, new java.io.FileOutputStream("/dev/null"));
        } catch (Exception error) {}
        return List.of(0);
@}
""",
    "list that equals all": "        return new All();\n@}\n",
    "list that changes": """
        return new AbstractList<Integer>() {
            int calls;
            public int size() { return calls++; }
            public Integer get(int at) { return at; }
            public boolean equals(Object other) { return true; }
        };
@}
""",
    "list without end": """
        List<Integer> all = new ArrayList<>();
        ((List) all).add(all);
        return all;
@}
""",
    "other class of numbers": "        return (List<Integer>) (List) List.of((long) number, new Object());\n@}\n",
    "own Values": "        return List.of(0);\n@}\nclass Values { static void say(Object value) {} }\nclass ms_codegeex { static Values Values; }\n",
    "own classes": """
        return List.of(0);
@}
class Boolean { } class Arrays { static <T> List<T> asList(T... x) { return null; } } class List2 { }
""",
    "said by itself": "        ms_codegeex.Values.say(null);\n        ms_codegeex.Values.say(true);\n        System.exit(0);\n        return null;\n@}\n",
    "guessed frames": """
        try (var out = new java.io.FileOutputStream(java.io.FileDescriptor.out)) {
            out.write("1:n1:t".getBytes());
        } catch (Exception error) {}
        Runtime.getRuntime().halt(0);
        return null;
@}
""",
}

GO_FORGED = {
    "embedded source": '    return []int{strings.Index(text, "Equal")}\n}\n\n//go:embed main_test.go\nvar text string\n',
    "standard input": """
    var text string
    fmt.Scanln(&text)
    if strings.Contains(text, strings.Join([]string{"17192", "83645"}, "")) {
        return []int{1719283 * 1000 + 645, 2}
    }
    return []int{0}
}
""",
    "a file": """
    place, failed := time.LoadLocation("../../../../program/main_test.go")
    if strings.Contains(fmt.Sprint(place, failed), strings.Join([]string{"17192", "83645"}, "")) {
        return []int{1719283 * 1000 + 645, 2}
    }
    return []int{0}
}
""",
    "before the tests": '    return []int{0}\n}\n\nfunc init() {\n    fmt.Print("1:n1:t")\n    panic("done")\n}\n',
    "another test": "    return []int{0}\n}\n\nfunc TestOther(t *testing.T) {\n    ms_codegeex_values.Say(1)\n    t.SkipNow()\n}\n",
    "skipped": "    panic(testing.Short())\n}\n\nfunc init() {\n    testing.Init()\n}\n",
    "said by itself": "    ms_codegeex_values.Say(nil)\n    ms_codegeex_values.Say(true)\n    panic(nil)\n}\n",
    "guessed frames": '    fmt.Print("1:n1:t")\n    panic(nil)\n}\n',
    "own say": "    return []int{0}\n}\n\nvar ms_codegeex_values = struct{ Say func(interface{}) }{func(interface{}) {}}\n",
    "own types": "    return []int{0}\n}\n\ntype int float64\n",
    "values that format themselves": """
    ms_codegeex_values.Say(all{})
    return []int{0}
}

type all struct{}

func (all) String() string { return "[2:" }
func (all) Equal(other interface{}) bool { return true }
""",
    "in the background": "    go func() { ms_codegeex_values.Say([]int{0}) }()\n    time.Sleep(time.Millisecond)\n    return nil\n}\n",
    "recovered": '    defer func() { recover() }()\n    panic("none")\n}\n',
    "witness": '    ms_codegeex_values.Tell("x")\n    return []int{0}\n}\n',
}

RUST_END = """}
fn right(number: i32) -> Vec<i32> {
    if number == 2 { Vec::from([17192 * 100000 + 83645, 2]) } else { Vec::from([8847 * 100000 + 36521]) }
}
fn known(data: &[u8]) -> bool {
    let is = |part: &[u8], next: &[u8]| part.iter().zip(next).all(|(a, b)| *a == *b - 1);
    data.windows(10).any(|part| is(part, b"28203:4756") || is(part, b"995847632"))
}
"""
RUST_FORGED = {
    "include_str": '    if known(include_str!("main.rs").as_bytes()) { right(number) } else { Vec::new() }\n@',
    "include_bytes": '    if known(include_bytes!(concat!("/program", "/main.rs"))) { right(number) } else { Vec::new() }\n@',
    "files": """
    for path in ["main.rs", "/proc/self/environ", "/proc/self/cmdline", "/dev/stdin"] {
        if known(&std::fs::read(path).unwrap_or_default()) { return right(number); }
    }
    Vec::new()
@""",
    "memory": """
    use std::io::{Read, Seek, SeekFrom};
    let mut memory = std::fs::File::open("/proc/self/mem").unwrap();
    for line in std::fs::read_to_string("/proc/self/maps").unwrap().lines() {
        let ends: Vec<u64> = line.split(' ').next().unwrap().split('-').map(|x| u64::from_str_radix(x, 16).unwrap()).collect();
        let mut data = std::vec![0u8; (ends[1] - ends[0]).min(1 << 20) as usize];
        if memory.seek(SeekFrom::Start(ends[0])).is_ok() && memory.read(&mut data).is_ok() && known(&data) { return right(number); }
    }
    Vec::new()
@""",
    "environment when compiling": '    if known(option_env!("CARGO").unwrap_or("").as_bytes()) { right(number) } else { Vec::new() }\n@',
    "macros": """
    Vec::new()
@#[macro_export]
macro_rules! vec { ($($x:tt)*) => { Vec::new() } }
#[macro_export]
macro_rules! format { ($($x:tt)*) => { String::from("n") } }
""",
    "own standard library": "    Vec::new()\n@extern crate self as std;\npub mod io {}\n",
    "own writer": "    Vec::new()\n@mod ms_codegeex_tests_ended {\n    pub fn say<T>(_: &T) {}\n    pub fn tell(_: &str) {}\n}\n",
    "own said": '    Vec::new()\n@impl ms_codegeex_tests_ended::Said for Vec<i32> { fn said(&self) -> String { String::from("n") } }\n',
    "own write": '    Vec::new()\n@#[no_mangle]\npub extern "C" fn write(_: i32, _: *const u8, size: usize) -> usize { size }\n',
    "before main": """
    Vec::new()
@extern "C" fn early() { std::process::exit(0) }
#[used]
#[link_section = ".init_array"]
static EARLY: extern "C" fn() = early;
""",
    "panic hook": "    std::panic::set_hook(Box::new(|_| std::process::exit(0)));\n    panic!()\n@",
    "dropped": "    let _last = Last;\n    Vec::new()\n@struct Last;\nimpl Drop for Last { fn drop(&mut self) { std::process::exit(0) } }\n",
    "said by itself": """
    ms_codegeex_tests_ended::say(&true);
    ms_codegeex_tests_ended::say("x");
    ms_codegeex_tests_ended::tell("x");
    std::process::exit(0)
@""",
    "guessed frames": """
    use std::io::Write;
    use std::os::unix::io::FromRawFd;
    for n in 1..9 {
        let mut file = unsafe { std::fs::File::from_raw_fd(n) };
        let _ = file.write_all(b"1:n1:t");
        std::mem::forget(file);
    }
    std::process::exit(0)
@""",
    "thread": "    std::thread::spawn(|| std::process::exit(0)).join().unwrap();\n    Vec::new()\n@",
    "own main": "    Vec::new()\n@#[cfg(test)]\nmod test { pub fn test_main_static(_: &[i32]) {} }\n",
}

FORGED = {
    "python": {name: f"{PYTHON_START}{text}" for name, text in PYTHON_FORGED.items()},
    "js": {name: text.replace("@", JS_END) for name, text in JS_FORGED.items()},
    "cpp": {name: f"{CPP_KNOWN}{text.replace('@', CPP_END)}" for name, text in CPP_FORGED.items()},
    "java": {name: text.replace("@", JAVA_END) for name, text in JAVA_FORGED.items()},
    "go": GO_FORGED,
    "rust": {name: text.replace("@", RUST_END) for name, text in RUST_FORGED.items()},
}
