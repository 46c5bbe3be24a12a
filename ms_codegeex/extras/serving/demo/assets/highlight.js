// What kind each part of a program is: comment, string, number, keyword, type, call. One pass over the text without
// backtracking, because a model's text can be anything.

const words = (text) => new Set(text.split(" "));

const C = words(
  "abstract as async auto await bool boolean break byte case catch char class const constexpr continue default " +
    "defer delete do double dynamic else enum export extends extern false final finally float fn for foreach " +
    "friend from func function go goto if impl implements import in inline instanceof int interface internal is " +
    "let long loop match mod module mut namespace new nil null nullptr object of operator override package private " +
    "protected pub public ref return self short signed sizeof static string struct super switch template this " +
    "throw throws trait true try type typedef typename typeof uint union unsafe unsigned use using val var virtual " +
    "void volatile when where while with yield",
);
const SCRIPT = words(
  "alias begin break case class continue def defined do done echo elif else elseif elsif end esac exit export " +
    "false fi for foreach from function if in import include local module my next nil not null or and our package " +
    "redo rescue require return self shift source sub super switch then true undef unless until use using when " +
    "while yield TRUE FALSE NULL NA",
);
const PYTHON = words(
  "and as assert async await break case class continue def del elif else except finally for from global if import " +
    "in is lambda match nonlocal not or pass raise return try while with yield True False None self",
);
const SQL = words(
  "add all alter and as asc between by case cascade char check column constraint count create cross database " +
    "default delete desc distinct drop else end exists foreign from full group having if in index inner insert int " +
    "integer into is join key left like limit not null on or order outer primary references right select set table " +
    "text then union unique update values varchar view when where with",
);
const MATHS = words(
  "begin break case class const continue contains do downto else elseif elsif end endfunction endif exit false for " +
    "forall function if implicit import in infix integer is let loop module mutable none not of open or otherwise " +
    "package procedure program real rec record repeat result return signal subroutine then to true type until use " +
    "var when where while with data deriving newtype instance qualified",
);
const NONE = new Set();

const BRACED = { line: ["//"], blocks: [["/*", "*/"]], quotes: `"'`, keywords: C };
const HASHED = { line: ["#"], blocks: [], quotes: `"'`, keywords: SCRIPT };
const DASHED = { line: ["--"], blocks: [["{-", "-}"]], quotes: `"`, keywords: MATHS };
const LISP = { line: [";"], blocks: [["#|", "|#"]], quotes: `"`, keywords: words("def defn define defun let lambda if cond set setq") };
const PERCENT = { line: ["%"], blocks: [], quotes: `"`, keywords: MATHS };
const BASIC = { line: ["'"], blocks: [], quotes: `"`, keywords: MATHS, folded: true };
const MARKUP = { line: [], blocks: [["<!--", "-->"]], quotes: `"`, keywords: NONE, markup: true };
const ML = { line: [], blocks: [["(*", "*)"]], quotes: `"`, keywords: MATHS };

const FAMILIES = [
  [HASHED, "Shell R Perl Ruby GDScript Julia Elixir PowerShell SPARQL CMake Dockerfile RMarkdown YAML Makefile TCSH Maple CoffeeScript"],
  [DASHED, "Lean Haskell Elm Idris AppleScript VHDL Agda Ada Lua"],
  [LISP, "Lisp Scheme Assembly Clojure Racket"],
  [PERCENT, "TeX Prolog Matlab Erlang"],
  [BASIC, "Basic Excel"],
  [MARKUP, "HTML Vue Markdown XSLT"],
  [ML, "Isabelle OCaml Mathematica"],
];
const SINGLE = {
  Python: { ...HASHED, blocks: [['"""', '"""', "string"], ["'''", "'''", "string"]], keywords: PYTHON },
  JavaScript: { ...BRACED, blocks: [...BRACED.blocks, ["`", "`", "string"]] },
  TypeScript: { ...BRACED, blocks: [...BRACED.blocks, ["`", "`", "string"]] },
  Go: { ...BRACED, blocks: [...BRACED.blocks, ["`", "`", "string"]] },
  Rust: { ...BRACED, quotes: `"` }, // 'a is a lifetime
  PHP: { ...BRACED, line: ["//", "#"] },
  SQL: { ...DASHED, blocks: BRACED.blocks, quotes: `"'`, keywords: SQL, folded: true },
  CSS: { ...BRACED, line: [], keywords: NONE },
  Pascal: { line: ["//"], blocks: [["{", "}"], ["(*", "*)"]], quotes: "'", keywords: MATHS, folded: true },
  Delphi: { line: ["//"], blocks: [["{", "}"], ["(*", "*)"]], quotes: "'", keywords: MATHS, folded: true },
  Fortran: { line: ["!"], blocks: [], quotes: `"'`, keywords: MATHS, folded: true },
  "Visual Basic": BASIC,
  "Common Lisp": LISP,
  "Emacs Lisp": LISP,
  "Standard ML": ML,
};
const KNOWN = new Map([
  ...FAMILIES.flatMap(([spec, names]) => names.split(" ").map((name) => [name, spec])),
  ...Object.entries(SINGLE),
]);

const NUMBER = /\d[\w.]*/y;
const WORD = /[\p{L}_$@][\p{L}\p{N}_$]*/uy;
const TAG = /<\/?[a-zA-Z][\w:-]*|\/?>/y;
const REST = /\s+|./suy;

// [kind, text] of each part; the texts together are the whole text. Kind "" is plain. Language null: prose.
export function highlight(text, language) {
  if (language === null) return text ? [["", text]] : [];
  const spec = KNOWN.get(language) ?? BRACED;
  const parts = [];
  for (let place = 0; place < text.length; ) {
    const [kind, end] = next(text, place, spec);
    const last = parts.at(-1);
    if (last && last[0] === kind) last[1] += text.slice(place, end);
    else parts.push([kind, text.slice(place, end)]);
    place = end;
  }
  return parts;
}

function next(text, place, spec) {
  for (const [open, close, kind = "comment"] of spec.blocks) {
    if (text.startsWith(open, place)) return [kind, after(text, close, place + open.length)];
  }
  for (const opener of spec.line) {
    if (text.startsWith(opener, place)) return ["comment", lineEnd(text, place)];
  }
  if (spec.quotes.includes(text[place])) return ["string", stringEnd(text, place)];
  if (spec.markup) {
    const end = match(TAG, text, place);
    if (end) return ["keyword", end];
  }
  let end = match(NUMBER, text, place);
  if (end) return ["number", end];
  end = match(WORD, text, place);
  if (end) return [wordKind(text.slice(place, end), text[end], spec), end];
  return ["", match(REST, text, place)];
}

function wordKind(word, following, spec) {
  if (spec.keywords.has(spec.folded ? word.toLowerCase() : word)) return "keyword";
  if (spec.markup) return "";
  if (following === "(") return "call";
  return /^\p{Lu}.*\p{Ll}/u.test(word) ? "type" : "";
}

function match(pattern, text, place) {
  pattern.lastIndex = place;
  return pattern.test(text) ? pattern.lastIndex : 0;
}

function after(text, close, from) {
  const end = text.indexOf(close, from);
  return end < 0 ? text.length : end + close.length;
}

function lineEnd(text, from) {
  const end = text.indexOf("\n", from);
  return end < 0 ? text.length : end;
}

function stringEnd(text, start) {
  for (let place = start + 1; place < text.length; place++) {
    if (text[place] === "\\") place++;
    else if (text[place] === text[start]) return place + 1;
    else if (text[place] === "\n") return place;
  }
  return text.length;
}
