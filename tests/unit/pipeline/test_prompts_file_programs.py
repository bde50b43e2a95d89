"""Prompt files as spreadsheets, editors, phones and pandas write them: they are read, or refused once, with a hint."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from pipeline.errors import InputError
from pipeline.prompts import parse, parse_bytes
from pipeline.settings import Settings

SETTINGS = Settings()


def encoded(data: str | bytes) -> bytes:
    return data if isinstance(data, bytes) else data.encode()


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("p.csv", "prompt;seed\na;1\n", [(2, "a", 1)]),
        ("p.csv", "prompt\tseed\na\t1\n", [(2, "a", 1)]),
        ("p.csv", "prompt|seed\na, b|1\n", [(2, "a, b", 1)]),
        ("p.csv", "sep=;\r\nprompt;seed\r\na;1\r\n", [(3, "a", 1)]),
        ("p.csv", '"sep=\t"\nprompt\tseed\na\t1\n', [(3, "a", 1)]),
        ("p.csv", "\n\nprompt,seed,,\na,1,,\n,,,\n\nb,2,,\n", [(4, "a", 1), (7, "b", 2)]),
        ("p.csv", "prompt,,seed\na,,1\n", [(2, "a", 1)]),
        ("p.csv", "prompt ,\u200bseed\na,1\n", [(2, "a", 1)]),
        ("p.csv", "prompt,notes,seed\na,,1\n", [(2, "a", 1)]),
        ("p.csv", "prompt,num_frames,seed\na,9.0,7.0\nb,,8.\n", [(2, "a", 7), (3, "b", 8)]),
        ("p.csv", "prompt,seeds\na,7.0\n", [(2, "a", 7)]),
        ("p.csv", "prompt,enhance,seed\na,FALSE,1\nb,False,2\nc,0.0,3\n", [(2, "a", 1), (3, "b", 2), (4, "c", 3)]),
        ("p.csv", '\ufeffprompt,seed\r\n"two\r\nlines",1\r\n', [(2, "two\nlines", 1)]),
        ("p.CSV", "prompt,seed\ra,1\r", [(2, "a", 1)]),
        ("p.jsonl", '{"prompt": "a", "seed": 49.0, "num_frames": 9.0}', [(1, "a", 49)]),
        ("p.jsonl", '\ufeff{"prompt": "a", "seed": 1}\n\ufeff{"prompt": "b", "seed": null, "seeds": [2.0]}',
         [(1, "a", 1), (2, "b", 2)]),
        ("p.jsonl", '{"prompt": "a\u2028b", "seed": 1}', [(1, "a\u2028b", 1)]),
        ("p.txt", "a --seed 1\u2028b --seed 2\x85c --seed 3\u2029d --seed 4\x0be --seed 5",
         [(1, "a", 1), (2, "b", 2), (3, "c", 3), (4, "d", 4), (5, "e", 5)]),
        ("p.txt", "\ufeff#: seed = 3\r\n\ufeff# a note\ra\u00a0fox\n", [(3, "a\u00a0fox", 3)]),
        ("p.txt", "a\u00a0--seed\u00a07\u200b", [(1, "a", 7)]),
        ("p.txt", "a man — walking \\—seed \\--x --seed 7", [(1, "a man — walking —seed --x", 7)]),
        ("p.TXT", "a—seed of doubt --seed 7", [(1, "a—seed of doubt", 7)]),
        ("p.txt", "“a fox” he said‐ --seed 7", [(1, "“a fox” he said‐", 7)]),
        ("p.yaml", "\ufeffprompts:\r\n- {prompt: a, seed: 7.0}\r\n", [(2, "a", 7)]),
    ],
)  # fmt: skip
def test_it_is_read(name: str, data: str | bytes, expected: list[tuple[int, str, int]]) -> None:
    submission = parse_bytes(encoded(data), name, overrides={}, settings=SETTINGS)
    assert [(job.line, job.spec.prompt, job.spec.seed) for job in submission.jobs] == expected


ROWS = "".join(f"fox {number},{number}\n" for number in range(3000))


@pytest.mark.parametrize(
    ("name", "data", "line", "hint"),
    [
        ("p.csv", "Prompt,seed\n" + ROWS, 1, "Prompt: unknown field; did you mean 'prompt'? known: prompt, "),
        ("p.csv", "a fox,1\n" + ROWS, 1, "the first row names the fields"),
        ("p.csv", "prompt,\n" + ROWS, 1, "column 2 has cells, but no name in the header"),
        ("p.csv", ",prompt\n" + "0,a\n" * 3000, 1, "index=False"),
        ("p.csv", "Unnamed: 0,prompt\n" + "0,a\n" * 3000, 1, "index=False"),
        ("p.csv", "prompt,seed,seed\n" + "a,1,2\n" * 3000, 1, "column 'seed' is given twice"),
        ("p.csv", "prompt,seed\n" + "a,b,1\n" * 3000, 2, "row has 3 cells; the header has 2; the same on lines 3, 4"),
        ("p.csv", "prompt,seed\n" + "“a, b”,1\n" * 3000, 2, "typographic quotes quote nothing in CSV"),
        ("p.csv", "prompt,seed\nNone,1\n", 2, "'None' is what pandas and databases write"),
        ("p.csv", "prompt,seed\na,\\N\n", 2, "write for a missing value"),
        ("p.csv", 'prompt,seed\n"=""a""",1\n', 2, "is a spreadsheet's formula; write its value"),
        ("p.csv", 'prompt,seed\n"=HYPERLINK(""x"")",1\n', 2, "is a spreadsheet's formula; write its value"),
        ("p.csv", "prompt,seed\n#WERT!,1\n", 2, "for a formula that failed"),
        ("p.csv", "prompt,seed\nErr:502,1\n", 2, "for a formula that failed"),
        ("p.csv", "Table 1\nprompt,seed\na,1\n", 1, "the first row names the fields, such as 'prompt,seed'"),
        ("p.csv", "# comment\nprompt,seed\na,1\n", 1, "the first row names the fields, such as 'prompt,seed'"),
        ("p.txt", "[12/03/24, 10:11:12] Bob: a fox\n", 1, "looks like a line of a chat's export"),
        ("p.txt", "12/03/2024, 10:11 - Bob: a fox\n" * 3000, 1, "looks like a line of a chat's export"),
        ("p.txt", "\u200e[12.03.24, 10:11\u202fPM] Bob: \u200ea fox\n", 1, "looks like a line of a chat's export"),
        ("p.csv", "prompt,seed\n" + "a,nan\n" * 3000, 2, "'nan' is what pandas and databases write"),
        ("p.csv", "prompt,seed\n" + "NaN,1\n" * 3000, 2, "'NaN' is what pandas and databases write"),
        ("p.csv", "prompt,seed\n" + "a,#N/A\n" * 3000, 2, "what a spreadsheet shows for a formula that failed"),
        ("p.csv", "prompt,seed\n" + "a,1.23E+15\n" * 3000, 2, "a spreadsheet has shortened it"),
        ("p.csv", "prompt;fps\n" + "a;8,5\n" * 3000, 2, "write 8.5, with a point"),
        ("p.csv", "prompt,seeds\n" + "a,04-Jan\n" * 3000, 2, "a spreadsheet may have read it as a date"),
        ("p.csv", ",".join(f"c{number}" for number in range(100_000)), 1, "the header has 100000 columns; at most"),
        ("p.csv", b"PK\x03\x04\x14\0", None, "is a zip archive or a document of an office program (.xlsx, .docx)"),
        ("p.csv", b"\xd0\xcf\x11\xe0\xa1\xb1", None, "(.xls, .doc): save the sheet as CSV"),
        ("p.csv", "prompt\na".encode("utf-16-le"), None, "is UTF-16; save it as UTF-8"),
        ("p.csv", "prompt\na".encode("utf-16-be"), None, "is UTF-16; save it as UTF-8"),
        ("p.txt", "a fox".encode("utf-16"), None, "is UTF-16; save it as UTF-8"),
        ("p.txt", "a fox".encode("utf-32"), None, "is UTF-32; save it as UTF-8"),
        ("p.txt", "é\n".encode("latin-1") * 3000, 1, "is 0xe9, which is not UTF-8; save the file as UTF-8"),
        ("p.txt", "{\\rtf1\\ansi a fox}\n" * 9, None, "is rich text: save it as plain text"),
        ("p.txt", "\ufeff\n<!DOCTYPE HTML>\n<p>a fox\n", None, "is a web page or XML"),
        ("p.txt", b"%PDF-1.7\n\xff\n", None, "is a PDF: save it as plain text"),
        ("p.txt", b"\x1f\x8b\x08\0", None, "is compressed: unpack it"),
        ("p.xlsx", b"PK\x03\x04", None, "; save the sheet as CSV"),
        ("p.json", "[]", None, "write an object on each line and name it .jsonl"),
        ("p.TSV", "prompt\n", None, "name it .csv: tabs may separate"),
        ("p.docx", b"PK\x03\x04", None, "save it as plain text"),
        ("p.jsonl", '[\n{"prompt": "a"},\n{"prompt": "b"}\n]' * 99, 1, "this is a list of them; `jq -c '.[]' FILE`"),
        ("p.jsonl", '[{"prompt": "a"}]', 1, "this is a list of them"),
        ("p.jsonl", '{\n  "prompt": "a"\n}\n' * 99, 1, "here one goes over several; `jq -c . FILE` writes it so"),
        ("p.jsonl", '{"prompt": "a"},\n' * 3000, 1, "remove the comma after the value; the same on lines 2, 3"),
        ("p.jsonl", '{"prompt": "a"\n[1]\n', 1, "here one goes over several"),
        ("p.jsonl", '{"prompt": "a"\n{"prompt": "a"}', 1, "Expecting ',' delimiter; it ends too early"),
        ("p.jsonl", '{"prompt": "a",}\n' * 3000, 1, "remove the comma before the bracket; the same on lines"),
        ("p.jsonl", "{'prompt': 'a'}\n" * 3000, 1, "JSON's quotes are double"),
        ("p.jsonl", "{“prompt”: “a”}\n" * 3000, 1, "“ is a typographic quote"),
        ("p.jsonl", '{"prompt":\u00a0"a"}\n' * 3000, 1, "U+00A0 (no-break space) stands where only plain blanks may"),
        ("p.jsonl", '{"prompt": "a"}\u2028{"prompt": "b"}', 1, "U+2028 (line separator) stands where"),
        ("p.jsonl", '{"prompt": "a", "image": None}\n' * 3000, 1, "JSON has null, true and false"),
        ("p.jsonl", '{"Prompt": "a"}\n' * 3000, 1, "Prompt: unknown field; did you mean 'prompt'? known: "),
        ("p.jsonl", '{"prompt": "a", "seed": 9007199254740994.0}\n', 1, "9007199254740994.0 is not a whole number"),
        ("p.txt", "a —seed 7\n" * 3000, 1, "'—seed' looks like the option '--seed'"),
        ("p.txt", "a fox –negative-prompt blur", 1, "write '--negative-prompt', or '\\–negative-prompt'"),
        ("p.txt", "a fox −−fps=7", 1, "(U+2212)"),
        ("p.txt", "a fox ‐‐size 64x64", 1, "(U+2010)"),
        ("p.txt", "a fox -\u00adseed 7", 1, "'-seed' looks like the option '--seed', but it has characters (U+00AD)"),
        ("p.txt", "a fox\u200b--seed 7", 1, "'--seed' looks like the option '--seed', but it has characters (U+200B)"),
        ("p.txt", "#: —seed = 7\na fox", 1, "did you mean 'seed'?"),
        ("p.yaml", "prompts:\n- prompt:\u00a0a fox\n", 2, "after 'prompt:' stands U+00A0, which is not a plain blank"),
        ("p.yaml", "prompts:\n\t- a\n", 2, "not YAML: found character that cannot start any token"),
    ],
)  # fmt: skip
def test_it_is_refused_once_with_a_hint(name: str, data: str | bytes, line: int | None, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_bytes(encoded(data), name, overrides={}, settings=SETTINGS)
    (problem,) = caught.value.problems
    assert hint in str(problem)
    assert (problem.file, problem.line) == (name, line)
    assert len(str(problem)) < 1000


def test_every_field_is_listed_once_however_many_are_unknown() -> None:
    lines = "".join(f'{{"prompt": "a", "promt{number}": 1, "x{number}": 2}}\n' for number in range(3000))
    with pytest.raises(InputError) as caught:
        parse_bytes(lines.encode(), "p.jsonl", overrides={}, settings=SETTINGS)
    text = str(caught.value)
    assert text.count("negative_prompt, seed, seeds,") == 1
    assert text.splitlines()[-1] == "p.jsonl: 5950 more problems; the first 50 are listed"
    assert len(text) < 8_000


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("folder_form", ["NFC", "NFD"])
def test_an_input_is_found_under_the_other_spelling_of_its_name(tmp_path: Path, form: str, folder_form: str) -> None:
    name, folder = "crème brûlée.png", tmp_path / unicodedata.normalize(folder_form, "Köln")
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / unicodedata.normalize(form, name))
    for asked in ("NFC", "NFD"):
        path = tmp_path / "p.txt"
        path.write_text(f"x --preset svd-xt --image {unicodedata.normalize(asked, f'Köln/{name}')}\n", "utf-8")
        assert len(parse(path, overrides={}, settings=SETTINGS).inputs) == 1


def test_the_exact_spelling_comes_first(tmp_path: Path) -> None:
    for number, form in enumerate(("NFC", "NFD")):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / unicodedata.normalize(form, "é.png"))
    lines = [f"x --preset svd-xt --image {unicodedata.normalize(form, 'é.png')}\n" for form in ("NFC", "NFD")]
    (tmp_path / "p.txt").write_text("".join(lines), "utf-8")
    assert len(parse(tmp_path / "p.txt", overrides={}, settings=SETTINGS).inputs) == 2
