"""Files of each format with the same words, made by libraries that are not the ones that read."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

ENGLISH = "The heron waits in the shallow water before dawn."
PERSIAN = "کتاب‌های کتابخانهٔ ملی ایران در سال ۱۳۱۶ گشوده شد"


def font() -> Path:
    """A free font with Persian letters: DejaVu Sans, which comes with matplotlib."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def write_pdf(path: Path, pages: list[str], title: str | None = None, **more: object) -> Path:
    """A PDF with shaped text, a page for each text; `outline` names a heading for each page."""
    from fpdf import FPDF

    made = FPDF()
    made.add_font("dejavu", fname=font())
    made.set_text_shaping(True)
    if title:
        made.set_title(title)
    outline = more.get("outline")
    for number, text in enumerate(pages):
        made.add_page()
        made.set_font("dejavu", size=11)
        if isinstance(outline, list):
            made.start_section(outline[number])
        made.multi_cell(0, 8, text, align="R")
    made.output(str(path))
    return path


def write_scan(path: Path) -> Path:
    """A PDF whose page is a picture."""
    from fpdf import FPDF
    from PIL import Image

    made = FPDF()
    made.add_page()
    made.image(Image.new("RGB", (100, 60), "gray"), x=10, y=10, w=100)
    made.output(str(path))
    return path


def write_docx(path: Path, paragraphs: list[tuple[str, str | None]]) -> Path:
    """A DOCX of (text, style) paragraphs."""
    import docx

    made = docx.Document()
    for text, style in paragraphs:
        made.add_paragraph(text, style=style)
    made.save(str(path))
    return path


def write_epub(path: Path, chapters: list[str], title: str = "A book") -> Path:
    """An EPUB 3 with a part for each chapter's markup (what stands inside <body>)."""
    names = [f"part {number}.xhtml" for number in range(len(chapters))]
    items = "".join(
        f'<item id="p{n}" href="text/{name.replace(" ", "%20")}" '
        'media-type="application/xhtml+xml"/>'
        for n, name in enumerate(names)
    )
    order = "".join(f'<itemref idref="p{n}"/>' for n in range(len(chapters)))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "application/epub+zip", zipfile.ZIP_STORED)
        archive.writestr(
            "META-INF/container.xml",
            '<?xml version="1.0"?><container version="1.0" '
            'xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles><rootfile '
            'full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles>'
            "</container>",
        )
        archive.writestr(
            "OEBPS/book.opf",
            '<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0">'
            '<metadata xmlns:dc="http://purl.org/dc/elements/1.1/">'
            f"<dc:title>{title}</dc:title></metadata>"
            f"<manifest>{items}</manifest><spine>{order}</spine></package>",
        )
        for name, chapter in zip(names, chapters, strict=True):
            archive.writestr(
                f"OEBPS/text/{name}",
                '<?xml version="1.0" encoding="utf-8"?><html xmlns="http://www.w3.org/1999/xhtml">'
                f"<head><title/></head><body>{chapter}</body></html>",
            )
    return path


def write_all(folder: Path) -> dict[str, Path]:
    """A file of each format with both sentences, and in most a heading "Birds" above them."""
    text = f"{ENGLISH}\n\n{PERSIAN}\n"
    markup = f"<h1>Birds</h1><p>{ENGLISH}</p><p dir='rtl'>{PERSIAN}</p>"
    row = json.dumps({"english": ENGLISH, "persian": PERSIAN}, ensure_ascii=False)
    plain = {
        "a.txt": text,
        "a.md": f"# Birds\n\n{text}",
        "a.html": f"<!doctype html><html><head><title>Birds</title></head><body>{markup}",
        "a.csv": f'english,persian\n"{ENGLISH}","{PERSIAN}"\n',
        "a.json": f"[{row}]",
        "a.jsonl": row + "\n",
        "a.py": f'def birds():\n    """{ENGLISH}"""\n    return "{PERSIAN}"\n',
    }
    for name, content in plain.items():
        (folder / name).write_text(content, encoding="utf-8")
    write_pdf(folder / "a.pdf", [ENGLISH, f"{PERSIAN}. " * 6], "Birds", outline=["Birds", "Books"])
    write_docx(
        folder / "a.docx", [("Birds", "Heading 1"), (ENGLISH, None), (PERSIAN, "List Bullet")]
    )
    write_epub(folder / "a.epub", [markup, f"<p>{ENGLISH}</p>"])
    return {path.suffix: path for path in sorted(folder.iterdir())}
