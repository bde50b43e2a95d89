"""Choose a file's reader by its name's ending, and describe files that are something else."""

from pathlib import Path

from pipeline.prompts.formats.csv_reader import read_csv
from pipeline.prompts.formats.jsonl_reader import read_jsonl
from pipeline.prompts.formats.table import Reader
from pipeline.prompts.formats.txt_reader import read_txt
from pipeline.prompts.formats.yaml_file import read_yaml

READERS: dict[str, Reader] = {
    ".txt": read_txt,
    ".jsonl": read_jsonl,
    ".csv": read_csv,
    ".yaml": read_yaml,
    ".yml": read_yaml,
}
_AS_CSV = "save the sheet as CSV (UTF-8)"
_AS_TEXT = "save it as plain text (UTF-8)"
_AS_LINES = "write an object on each line and name it .jsonl (`jq -c '.[]' a.json > a.jsonl` does it for a list)"
_OTHER_ENDINGS = {
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers"), _AS_CSV),
    **dict.fromkeys((".rtf", ".doc", ".docx", ".odt", ".pages", ".pdf", ".html", ".htm", ".md"), _AS_TEXT),
    **dict.fromkeys((".tsv", ".tab"), "name it .csv: tabs may separate its cells too"),
    **dict.fromkeys((".json", ".ndjson"), _AS_LINES),
    ".parquet": "write it as .jsonl (pandas: to_json(path, orient='records', lines=True))",
}
_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", f"is a zip archive or a document of an office program (.xlsx, .docx): {_AS_CSV}, or {_AS_TEXT}"),
    (b"\xd0\xcf\x11\xe0", f"is a document of an office program (.xls, .doc): {_AS_CSV}, or {_AS_TEXT}"),
    (b"{\\rtf", f"is rich text: {_AS_TEXT}"),
    (b"%PDF-", f"is a PDF: {_AS_TEXT}"),
    (b"\x1f\x8b", "is compressed: unpack it with gunzip"),
    (b"\x28\xb5\x2f\xfd", "is compressed: unpack it with unzstd"),
    (b"PAR1", f"is a Parquet file: {_OTHER_ENDINGS['.parquet']}"),
    (b"SQLite format 3", f"is a database: {_AS_CSV}"),
    (b"\x89PNG", "is a picture, not a prompt file"),
    (b"\xff\xd8\xff", "is a picture, not a prompt file"),
)
_WEB_PAGES = (b"<!doctype html", b"<html", b"<?xml")


def reader_of(name: str) -> Reader | str:
    """The reader of a file of that name, or the sentence on why there is none."""
    suffix = Path(name).suffix.lower()
    if suffix in READERS:
        return READERS[suffix]
    hint = _OTHER_ENDINGS.get(suffix)
    return f"the name does not end in one of {', '.join(READERS)}{f'; {hint}' if hint else ''}"


def other_format(data: bytes) -> str | None:
    """The sentence on bytes that are no text file in UTF-8 whatever their name says, None for what may be one."""
    if data[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        return "is UTF-32; save it as UTF-8"
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or _every_second_is_nul(data[:64]):
        return "is UTF-16; save it as UTF-8"
    for beginning, sentence in _BEGINNINGS:
        if data.startswith(beginning):
            return sentence
    start = data[:200].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(_WEB_PAGES):
        return f"is a web page or XML: {_AS_TEXT}, without tags"
    return f"is rich text: {_AS_TEXT}" if start.startswith(b"{\\rtf") else None


def _every_second_is_nul(start: bytes) -> bool:
    """UTF-16 without a mark: text of any Latin script begins so."""
    pairs = len(start) // 2
    return pairs >= 2 and 0 < pairs in (start[0 : 2 * pairs : 2].count(0), start[1 : 2 * pairs : 2].count(0))
