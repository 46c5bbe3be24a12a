"""Answers to MTPB problems, written by hand from the prompts: for each turn the code, with the case's values in it, and
what to replace to get programs that are wrong in case `case`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Answers:
    """`mutants` are (old, new) replacements in the whole program; "" -> text is inserted before the last turn."""

    turns: tuple[str, ...]
    mutants: tuple[tuple[str, str], ...]
    case: int = 0
    wrong: tuple[int, ...] = ()  # cases whose expected value is not what the prompts ask for


ANSWERS = {
    "5": Answers(
        (
            "my_numbers = {A}",
            "n_neg = len([x for x in my_numbers if x < 0])",
            "n_pos = len([x for x in my_numbers if x > 0])",
            "max(n_neg, n_pos)",  # a last expression counts as printed
        ),
        (("max(n_neg", "min(n_neg"), ("x > 0", "x > 2")),
    ),
    "8": Answers(
        (
            "def bigrams(s):\n    words = s.split()\n    return list(zip(words, words[1:]))",
            'sentence = "{a1}"',
            "print(bigrams(sentence))",  # pairs, where lists are expected
        ),
        (("words[1:]", "words[2:]"), ("s.split()", "list(s)")),
    ),
    "31": Answers(
        (
            "two_edges = {a} + {b}",
            "maximum_edge = two_edges - 1",
            "minimum_edge = abs({a} - {b}) + 1",
            "my_tuple = (maximum_edge, minimum_edge)",
            "print(my_tuple)",
        ),
        (("two_edges - 1", "two_edges"), ("(maximum_edge, minimum_edge)", "(minimum_edge, maximum_edge)")),
        case=1,
        wrong=(0,),  # 8 + 9 - 1 is not 17
    ),
    "39": Answers(
        (
            "s = '{s}'",
            "import re\npattern = re.compile('[,.]')",
            "s2 = pattern.sub('', s)",
            "words = s2.split()",
            "print(np.array([len(word) for word in words]))",  # an array, where a list is expected
        ),
        (("sub('', s)", "sub('x', s)"), ("len(word) for", "word for")),
    ),
    "41": Answers(
        (
            "def count_values(lst):\n    return {{x: lst.count(x) for x in lst}}",
            "counts = count_values({lst})",
            "best = max(counts, key=counts.get, default=None)\n"
            "print(best if counts and counts[best] > sum(counts.values()) / 2 else None)",
        ),
        (("/ 2 else", "/ 9 * 8 else"), ("print(best if", "print(0 if")),
    ),
    "57": Answers(
        (
            "my_array = {A}",
            "spans = [my_array[i:j] for i in range(len(my_array)) for j in range(i + 1, len(my_array) + 1)]\n"
            "max_subarray = max(spans, key=sum)",
            "sum_subarray = sum(max_subarray)",
            "print(sum_subarray)",
        ),
        (("max(spans", "min(spans"), ("print(sum_subarray)", "print(max_subarray)")),
        case=1,
    ),
    "89": Answers(
        (
            "x = {x}",
            "mapped = [{fun}(each) for each in x]",
            "mapped = [str(each) for each in mapped]",
            "results = {{key: [] for key in mapped}}",
            "for key, value in zip(mapped, x):\n    results[key].append(value)",
            "print(results)",
        ),
        (("append(value)", "append(key)"), ("print(results)", "print(list(results))")),
    ),
    "94": Answers(
        (
            "start = {start}\nseq = [{start}]",
            "while start != 1:\n    start = start // 2 if start % 2 == 0 else 3 * start + 1\n    seq.append(start)",
            "results = sum(seq)",
            "print(results)",
        ),
        (("3 * start + 1", "4"), ("sum(seq)", "len(seq)")),
        case=3,
        wrong=(1,),  # 9, 28, 14, 7, 22, ... is 9 more than 28, 14, 7, 22, ..., which is case 3
    ),
    "97": Answers(
        (
            'arrows = {x}\njoined_arrow = "".join(arrows)',
            'left = joined_arrow.count("<")\nright = joined_arrow.count(">")',
            'if right > left:\n    print(">" * (right - left))',
            'if right <= left:\n    print("<" * (left - right))',
        ),
        (('">" * (right', '"<" * (right'), ("right - left", "right")),
    ),
    "115": Answers(
        (
            "my_array = {A}",
            "mean_number = np.mean(my_array)",
            "median_number = np.median(my_array)",
            "print(mean_number - median_number)",  # NumPy's scalars
        ),
        (("np.median", "np.max"), ("mean_number - median_number", "median_number - mean_number")),
        case=1,
    ),
}
