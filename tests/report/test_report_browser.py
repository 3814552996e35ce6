"""The report in headless Chromium: what a reader sees, with mouse and keyboard. Skipped where Chromium or its driver is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import ActionChains, By, Keys, Reader, Select, WebDriverWait, touch
from report_pages import HOSTILE_NAME, HOSTILE_WORDS, pictures, write_page
from runs import CHANGES

from gpuannot import Annotations, Annotator
from gpuannot.datasets.label_files import LabelledImages
from gpuannot.images.batches import ImageFailure
from gpuannot.method.labels import label_matrix
from gpuannot.report.build import report_images
from gpuannot.report.explained import write_explanations
from gpuannot.report.writer import ReportWriter

WORDS = ["sky", "sea", "tree", "car"]
# Of a copy: Chromium's console advises against reading the pixels of a page's own canvas twice.
PIXELS = (
    "const pixels = (canvas) => {"
    "const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', { willReadFrequently: true });"
    "copy.drawImage(canvas, 0, 0); return copy.getImageData(0, 0, canvas.width, canvas.height).data; };"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """130 images, three pages. All carry and are given sky; every tenth also carries car; they are given tree and sea in turn."""
    folder = tmp_path_factory.mktemp("page")
    paths = pictures(folder / "in", [f"image {number:03d}.png" for number in range(130)])
    given = [["sky", "sea" if number % 2 else "tree"] for number in range(130)]
    truth = [["sky", *(["car"] if number % 10 == 0 else [])] for number in range(130)]
    write_page(folder / "report.html", paths, given, truth, WORDS, title="Test page")
    return folder / "report.html"


def test_it_opens(read: Any, page: Path) -> None:
    reader = read(page)
    assert reader.browser.title == "Test page" and reader.one("h1").text == "Test page"
    assert reader.count == "130 images" and len(reader.names) == 60 and reader.names[0] == "image 000.png"
    tiles = dict(zip((e.text for e in reader.all(".tiles dt")), (e.text for e in reader.all(".tiles dd")), strict=True))
    # precision: sky 1, the others 0; recall: sky 1, car 0
    assert (tiles["images annotated"], tiles["precision"], tiles["recall"], tiles["words given"]) == ("130", "25.0%", "25.0%", "3")
    assert [link.text for link in reader.all(".tabs a")] == ["Images", "Words", "Confusion", "Review", "Run"]
    picture = reader.one(".card img")
    assert reader.script("return arguments[0].decode().then(() => arguments[0].naturalWidth)", picture) == 30


def test_words_are_marked_not_by_colour_alone(read: Any, page: Path) -> None:
    reader = read(page)
    card = reader.one(".card")
    texts = reader.script(
        "return [...arguments[0].querySelectorAll('.words button, .missed-words')].map((e) => e.textContent)", card
    )
    assert texts == ["✓right: sky1", "✕wrong: tree2", "○ missed: car"]
    assert [mark.text[0] for mark in reader.all(".card:first-child .mark")] == ["✓", "✕", "○"]


def test_search_filters_and_order(read: Any, page: Path) -> None:
    reader = read(page)
    reader.one("#search").send_keys("SEA 01")
    expected = [f"image {number:03d}.png" for number in range(1, 130, 2) if "01" in f"{number:03d}"]
    assert reader.count == "7 of 130 images" and reader.names == expected
    assert reader.one("#count").get_attribute("aria-live") == "polite"
    reader.one("#search").send_keys("zzz")
    assert reader.count == "0 of 130 images" and reader.one("#gallery").text == "No image fits these filters."
    reader.one("#clear").click()
    assert reader.count == "130 images"
    reader.choose("#word", str(WORDS.index("car")))
    assert reader.count == "13 of 130 images"
    for state, found in (("right", 0), ("wrong", 0), ("missed", 13), ("faultless", 0)):
        reader.choose("#state", state)
        assert reader.count == f"{found} of 130 images"
    reader.choose("#word", "")
    reader.choose("#state", "missed")
    assert reader.count == "13 of 130 images"
    reader.one("#clear").click()
    reader.choose("#order", "errors")
    assert reader.names[:14] == [f"image {number:03d}.png" for number in (*range(0, 130, 10), 1)]
    reader.choose("#order", "unsure")  # the distances grow with the number
    assert reader.names[:2] == ["image 129.png", "image 128.png"]
    reader.choose("#order", "surest")
    assert reader.names[:2] == ["image 000.png", "image 001.png"]


def test_pages(read: Any, page: Path) -> None:
    reader = read(page)

    def go(name: str) -> None:
        next(button for button in reader.all("#pager button") if button.text == name).click()

    assert "of 3" in reader.one("#pager").text
    go("Next")
    assert reader.names[0] == "image 060.png" and reader.focused.get_attribute("class") == "open"
    go("Last")
    assert reader.names == [f"image {number:03d}.png" for number in range(120, 130)]
    assert [button.is_enabled() for button in reader.all("#pager button")] == [True, True, False, False]
    number = reader.one("#pager input")
    number.send_keys(Keys.CONTROL + "a")
    number.send_keys("2", Keys.ENTER)
    assert reader.names[0] == "image 060.png"
    reader.one("#search").send_keys("sea")
    assert reader.names[0] == "image 001.png" and "of 2" in reader.one("#pager").text


def test_the_keyboard_alone(read: Any, page: Path) -> None:
    reader = read(page)
    reader.press(Keys.TAB)
    assert reader.focused.text == "Skip to the content"
    for _ in range(60):
        if reader.focused.get_attribute("class") == "open":
            break
        reader.press(Keys.TAB)
    assert reader.focused.get_attribute("aria-label") == "Open image 000.png: sky, tree"
    reader.press(Keys.TAB)
    assert "sky" in reader.focused.text
    reader.press(Keys.ARROW_DOWN)
    assert "tree" in reader.focused.text
    reader.press(Keys.TAB)  # the words of a card are one stop
    assert reader.focused.get_attribute("aria-label") == "Open image 001.png: sky, sea"
    reader.press(Keys.ENTER)
    assert reader.one("#detail").get_attribute("open") and reader.one("#detail-name").text == "image 001.png"
    assert "sky" in reader.focused.text
    reader.press(Keys.ARROW_RIGHT)
    assert reader.one("#detail-name").text == "image 002.png" and reader.one("#detail-place").text == "3 of 130"
    reader.press(Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert reader.one("#detail-name").text == "image 000.png" and not reader.one("#detail-previous").is_enabled()
    assert reader.one("#detail-missed").text.split()[0::3] == ["Missed", "car"]
    reader.press(Keys.ESCAPE)
    assert reader.one("#detail").get_attribute("open") is None
    assert reader.comes_to("Open image 000.png: sky, tree")


def test_the_table_of_words(read: Any, page: Path) -> None:
    reader = read(page)
    reader.all(".tabs a")[1].click()
    assert reader.one("#words").is_displayed() and not reader.one("#images").is_displayed()
    assert reader.turns_to("Words")

    def rows() -> list[list[str]]:
        return [[cell.text for cell in row.find_elements(By.TAG_NAME, "td")] for row in reader.all("#word-table tbody tr")]

    def heading(name: str) -> Any:
        return next(cell for cell in reader.all("#word-table th") if cell.text.split(" ")[0] == name)

    assert rows()[:2] == [
        ["sky", "130", "130", "130", "100.0%", "100.0%", "100.0%"],
        ["car", "13", "0", "0", "0.0%", "0.0%", "0.0%"],
    ]
    assert heading("True").get_attribute("aria-sort") == "descending"
    heading("Word").find_element(By.TAG_NAME, "button").click()
    assert [row[0] for row in rows()] == sorted(WORDS) and heading("Word").get_attribute("aria-sort") == "ascending"
    assert heading("True").get_attribute("aria-sort") is None and reader.focused.text.startswith("Word")
    heading("Given").find_element(By.TAG_NAME, "button").click()
    assert [row[2] for row in rows()] == ["130", "65", "65", "0"]
    reader.one("#word-search").send_keys("c")
    assert [row[0] for row in rows()] == ["car"] and reader.one("#word-count").text == "1 of 4 words"
    reader.one("#word-table td button").click()
    assert reader.one("#images").is_displayed() and reader.count == "13 of 130 images"


def test_an_address_leads_to_a_part(read: Any, page: Path) -> None:
    reader = read(page)
    for fragment, expected in (("confusion", "Confusion"), ("pager", "Images"), ("nowhere", "Images"), ("run", "Run")):
        reader.browser.get("about:blank")
        reader.browser.get(f"{reader.address}#{fragment}")
        # The page's script runs once its data is there, which a busy machine's browser may be told of late.
        WebDriverWait(reader.browser, 20).until(
            lambda _, expected=expected: [link.text for link in reader.all(".tabs [aria-current]")] == [expected]
        )
        assert [part.get_attribute("id") for part in reader.all("main > section") if part.is_displayed()] == [expected.lower()]
    reader.browser.get(f"{reader.address}#images")
    reader.script("location.hash = 'pager'")
    assert reader.turns_to("Images")


def test_charts_are_drawn(read: Any, page: Path) -> None:
    reader = read(page)
    reader.all(".tabs a")[1].click()
    colours = PIXELS + "return new Set(new Uint32Array(pixels(document.getElementById(arguments[0])).buffer)).size"
    for name, least in (("bars", 5), ("scatter", 3)):
        # Chart.js draws in the browser's next frame.
        WebDriverWait(reader.browser, 5).until(lambda _, name=name, least=least: reader.script(colours, name) >= least)
        canvas = reader.one(f"#{name}")
        assert canvas.get_attribute("role") == "img" and canvas.get_attribute("aria-label")


def test_what_was_given_in_place_of_a_missed_word(read: Any, page: Path) -> None:
    reader = read(page)
    reader.all(".tabs a")[2].click()
    assert [row.text.split() for row in reader.all("#confusion-table tbody tr")] == [["car", "13", "13", "tree", "×13"]]
    reader.one("#confusion-table .chips button").click()
    assert reader.count == "13 of 130 images" and reader.one("#tokens").text == "and tree given wrongly ✕"
    assert Select(reader.one("#state")).first_selected_option.text == "missed"
    reader.one("#tokens button").click()
    assert reader.count == "13 of 130 images" and not reader.one("#tokens").is_displayed()


@pytest.fixture(scope="module")
def heated(scenes: LabelledImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn scenes with heatmaps."""
    annotator = Annotator(device="cpu", **CHANGES).fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary, progress=False)
    path = tmp_path_factory.mktemp("heated") / "report.html"
    report_images(annotator, scenes, path, 3, progress=False)
    return path


def lit(reader: Reader, picture: Any) -> int:
    """How many pixels of a picture the heatmap colours; 0 where none is shown."""
    found = reader.script(
        PIXELS + "const canvas = arguments[0].querySelector('canvas');"
        "if (!canvas || !arguments[0].classList.contains('lit')) return 0;"
        "return pixels(canvas).filter((value, place) => place % 4 === 3 && value > 100).length",
        picture,
    )
    return int(found)


def test_a_word_shows_where_it_was_seen(read: Any, heated: Path) -> None:
    reader = read(heated)
    card = reader.one(".card")
    picture = card.find_element(By.CSS_SELECTOR, ".picture")
    buttons = card.find_elements(By.CSS_SELECTOR, ".words button")
    reader.script("return arguments[0].querySelector('img').decode()", picture)

    def point_at(element: Any) -> None:
        ActionChains(reader.browser).move_to_element(element).perform()

    assert lit(reader, picture) == 0
    point_at(buttons[1])
    assert lit(reader, picture) > 0
    point_at(reader.one("h1"))
    assert lit(reader, picture) == 0
    buttons[1].click()
    point_at(reader.one("h1"))
    assert lit(reader, picture) > 0 and [each.get_attribute("aria-pressed") for each in buttons] == ["false", "true", "false"]
    reader.press(Keys.ESCAPE)
    assert lit(reader, picture) == 0 and buttons[1].get_attribute("aria-pressed") == "false"
    reader.press(Keys.ARROW_UP)  # by the keyboard alone
    assert reader.focused == buttons[0] and lit(reader, picture) > 0


def test_a_heatmap_in_the_dialog(read: Any, heated: Path) -> None:
    reader = read(heated)
    reader.all(".card .open")[2].click()
    picture, dialog = reader.one("#detail-picture"), reader.one("#detail")
    reader.script("return arguments[0].querySelector('img').decode()", picture)
    assert reader.one("#detail-scale").is_displayed()
    reader.press(Keys.ENTER)  # the first word has the focus
    assert lit(reader, picture) > 0 and reader.focused.get_attribute("aria-pressed") == "true"
    reader.press(Keys.ESCAPE)
    assert lit(reader, picture) == 0 and dialog.get_attribute("open")
    reader.press(Keys.ARROW_RIGHT)
    assert reader.one("#detail-place").text == "4 of 24" and reader.all("#detail-words [aria-pressed=true]") == []
    reader.press(Keys.ESCAPE, Keys.ESCAPE)
    assert dialog.get_attribute("open") is None
    assert reader.comes_to(reader.all(".card .open")[3].get_attribute("aria-label"))


def test_hostile_text_shows_as_text(read: Any, tmp_path: Path) -> None:
    words = list(HOSTILE_WORDS)
    paths = pictures(tmp_path / "in", [HOSTILE_NAME, '" onload="alert(2)" x=".png'])
    title = "</title><script>alert('t')</script>"
    write_page(tmp_path / "r.html", paths, [words[:2], words[2:4]], [words[1:3], words[4:]], words, title=title)
    reader = read(tmp_path / "r.html")
    assert reader.browser.title == title and reader.one("h1").text == title
    assert reader.names == [path.name for path in paths]
    shown = reader.script("return [...document.querySelectorAll('#gallery .text')].map((each) => each.textContent)")
    assert shown == words[:4]
    reader.all(".card .open")[1].click()
    assert reader.one("#detail-name").text == paths[1].name
    assert words[4] in reader.one("#detail-missed").text
    reader.press(Keys.ESCAPE)
    for number in (1, 2, 3):
        reader.all(".tabs a")[number].click()
    assert reader.script("return [document.scripts.length, document.querySelectorAll('#main script, #main b b').length]") == [5, 0]
    options = reader.script("return [...document.getElementById('word').options].map((each) => each.textContent)")
    assert set(options) == {"any", *words}
    handlers = "return [...document.querySelectorAll('*')].filter((each) => each.hasAttribute('onload')).length"
    assert reader.script(handlers) == 0


def test_without_truth(read: Any, tmp_path: Path) -> None:
    paths = pictures(tmp_path / "in", ["a.png", "b.png"])
    write_page(tmp_path / "r.html", paths, [["sky", "sea"], ["car", "sky"]], None, WORDS)
    reader = read(tmp_path / "r.html")
    assert [link.text for link in reader.all(".tabs a")] == ["Images", "Words", "Review", "Run"]
    assert reader.all("#images .mark") == [] and not reader.one("#state").is_displayed() and not reader.one("#pager").is_displayed()
    assert [option.get_attribute("value") for option in reader.all("#order option")] == ["input", "surest", "unsure", "name"]
    reader.all(".tabs a")[1].click()
    assert [row.text for row in reader.all("#word-table tbody tr")] == ["sky 2", "sea 1", "car 1", "tree 0"]
    assert not reader.one("#scatter").is_displayed()


def test_confidences(read: Any, tmp_path: Path) -> None:
    paths = pictures(tmp_path / "in", ["a.png", "b.png", "c.png"])
    confidence = [[0.125, 0.5], [0.9, 0.2], [0.25, 0.1]]
    write_page(tmp_path / "r.html", paths, [["sky", "sea"]] * 3, None, WORDS, confidence=confidence, weak_below=0.25)
    reader = read(tmp_path / "r.html")
    assert [each.text for each in reader.all("#gallery .value")] == ["50%", "13%", "90%", "20%", "25%", "10%"]
    assert reader.one(".card .words").text.split() == ["sea", "50%", "sky", "13%"]  # the likelier one first
    assert "% confidence, dimmed below 25%" in reader.one("#legend").text
    assert [each.text.split()[0] for each in reader.all("#gallery .weak-word")] == ["sky", "sea", "sea"]
    reader.choose("#order", "unsure")
    assert reader.names == ["c.png", "a.png", "b.png"]
    reader.choose("#order", "surest")
    assert reader.names == ["b.png", "a.png", "c.png"]
    reader.one(".card .open").click()
    widths = "return [...document.querySelectorAll('#detail-words .track i')].map((each) => each.style.width)"
    assert [float(width.rstrip("%")) for width in reader.script(widths)] == pytest.approx([90, 20])


@pytest.mark.usefixtures("phone")
def test_nothing_overflows_on_a_phone(read: Any, page: Path) -> None:
    reader = read(page)
    for part in ("images", "words", "confusion", "run"):
        reader.script("location.hash = arguments[0]", part)
        assert reader.script("return [document.documentElement.scrollWidth, innerWidth]") == [390, 390], part
    reader.script("location.hash = 'images'")
    assert all(picture.rect["y"] + picture.rect["height"] < 844 for picture in reader.all(".card img")[:2])  # without scrolling
    buttons = [button for button in reader.all("#pager button") if button.is_displayed()]
    assert [button.text for button in buttons] == ["Previous", "Next"]
    for button in buttons:
        assert button.rect["x"] >= 0 and button.rect["x"] + button.rect["width"] <= 390


@pytest.mark.usefixtures("phone")
def test_an_image_is_opened_and_its_words_touched(read: Any, heated: Path) -> None:
    """The dialog stands in the middle; nothing is lit before a word is touched, and the picture stays in view below it."""
    reader = read(heated)
    touch(reader, reader.one(".card .open"))
    wait = WebDriverWait(reader.browser, 5, poll_frequency=0.05)
    wait.until(lambda _: reader.one("#detail").get_attribute("open"))
    left, right, top, bottom = reader.script(
        "const r = document.querySelector('#detail').getBoundingClientRect();return [r.left, innerWidth - r.right, r.top, r.bottom]"
    )
    assert left == pytest.approx(right, abs=1) and left >= 0 and top >= 0 and bottom <= 844
    picture = reader.one("#detail-picture")
    assert lit(reader, picture) == 0 and "Press a word" in reader.one("#detail-hint").text
    for word, shown in ((0, True), (1, True), (1, False)):
        touch(reader, reader.all("#detail-words button")[word])
        wait.until(lambda _, shown=shown: (lit(reader, picture) > 0) == shown)
    reader.script("document.querySelector('#detail').scrollTop = 1e5")
    assert reader.script("return arguments[0].getBoundingClientRect().top", picture) >= 0


def test_long_paths_keep_their_end(read: Any, tmp_path: Path) -> None:
    folders = [tmp_path / "in" / name for name in ("a", "b" * 60)]
    (tmp_path / "in").mkdir()
    paths = [path for folder in folders for path in pictures(folder, ["holiday by the sea 00042.png"])]
    write_page(tmp_path / "r.html", paths, [["sky", "sea"]] * 2, None, WORDS)
    reader = read(tmp_path / "r.html")
    fits = "const [line, end] = [arguments[0], arguments[0].querySelector('.path-end')].map((e) => e.getBoundingClientRect());"
    for name in reader.all("#gallery .name"):
        assert name.get_attribute("textContent").endswith("sea 00042.png")
        assert reader.script(fits + "return end.left >= line.left && end.right <= line.right && end.width > 60", name)
    reader.all(".card .open")[1].click()
    assert reader.one("#detail-name").text == "holiday by the sea 00042.png"
    assert reader.one("#detail-folder").text.endswith("b" * 60 + "/")


@pytest.mark.parametrize("words", [1, 5, 40])
def test_an_image_of_any_number_of_words(read: Any, tmp_path: Path, words: int) -> None:
    """A card shows the first ten, and how many more there are; the dialog all, and it scrolls where there are many."""
    vocabulary = [f"word {number}" for number in range(40)]
    paths = pictures(tmp_path / "in", ["a.png", "b.png"])
    write_page(tmp_path / "r.html", paths, [vocabulary[:words]] * 2, None, vocabulary)
    reader = read(tmp_path / "r.html")
    shown = [button.text.split("\n")[0] for button in reader.one(".card").find_elements(By.CSS_SELECTOR, ".words button")]
    assert shown == vocabulary[: min(words, 10)] + (["30 more"] if words == 40 else [])
    reader.one(".card .more" if words == 40 else ".card .open").click()
    assert len(reader.all("#detail-words button")) == words
    inside = (
        "const [outer, inner] = ['#detail', '#detail-picture'].map((each) => document.querySelector(each).getBoundingClientRect());"
        "return inner.top >= outer.top && inner.bottom <= outer.bottom && outer.bottom <= innerHeight"
    )
    WebDriverWait(reader.browser, 5, poll_frequency=0.05).until(lambda _: reader.script(inside))
    last = reader.one("#detail-next")
    reader.script("arguments[0].scrollIntoView()", last)
    last.click()
    assert reader.one("#detail-name").text == "b.png"


def test_failures_are_a_press_away_and_numbers_explained(read: Any, tmp_path: Path) -> None:
    paths = pictures(tmp_path / "in", ["a.png", "b.png"])
    given = Annotations(
        ("a.png",), np.arange(1), np.array([[0]]), np.ones((1, 1), np.float32), tuple(WORDS),
        (ImageFailure("b.png", "decode", "cut <short>"),),
    )  # fmt: skip
    with ReportWriter(tmp_path / "r.html", WORDS, 2, truth=label_matrix([["sky"], ["sea"]], WORDS)[0]) as writer:
        writer.add(given, paths[:1])
        writer.commit()
    reader = read(tmp_path / "r.html")
    reader.one(".meanings summary").click()
    assert [term.text for term in reader.all(".meanings dt")] == ["precision", "recall", "F1", "N+"]
    assert all(each.text for each in reader.all(".meanings dd"))
    reader.one(".tiles a").click()
    assert reader.turns_to("Run") and "b.png decode: cut <short>" in reader.one("#facts li").text


def test_the_page_of_explain(read: Any, scenes: LabelledImages, heated: Path, tmp_path: Path) -> None:
    annotator = Annotator(device="cpu", **CHANGES).fit(scenes.paths, scenes.labels, vocabulary=scenes.vocabulary, progress=False)
    images = list(scenes.paths[:2])
    write_explanations(tmp_path, zip(annotator.explain(images, k=3, progress=False), images, strict=True))
    browser = read(heated).browser  # nothing is asked of a network here either, but for pictures beside the page
    browser.get((tmp_path / "index.html").as_uri())
    shown = browser.execute_script("return [...document.images].map((each) => [each.complete, each.naturalWidth])")
    assert len(shown) == 6
    WebDriverWait(browser, 5).until(
        lambda _: browser.execute_script(
            "return [...document.images].every((each) => each.naturalWidth || each.loading === 'lazy')"
        )
    )
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    browser.get(heated.as_uri())


def luminance(reader: Reader, selector: str, what: str) -> float:
    text = reader.script(f"return getComputedStyle(document.querySelector(arguments[0])).{what}", selector)
    red, green, blue = (float(part) for part in text.partition("(")[2].rstrip(")").split(",")[:3])
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255


def test_dark_and_light(read: Any, browser: Any, page: Path) -> None:
    for system, dark in (("light", False), ("dark", True)):
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": system}]})
        reader = read(page)
        for expected in (dark, not dark):
            assert (luminance(reader, "body", "backgroundColor") < 0.2) == expected
            assert (luminance(reader, "body", "color") > 0.7) == expected
            assert reader.one("#theme").text == ("Light" if expected else "Dark")
            reader.one("#theme").click()
        chosen = reader.script("return document.documentElement.dataset.theme")

        def kept(_: Any, reader: Reader = reader, chosen: str = chosen) -> bool:
            reader.browser.refresh()
            return bool(reader.script("return document.documentElement.dataset.theme") == chosen)

        WebDriverWait(reader.browser, 5).until(kept)  # the choice outlives the page, as soon as the browser has stored it
        reader.script("localStorage.clear()")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_an_image_without_preview_keeps_its_words(read: Any, tmp_path: Path) -> None:
    paths = pictures(tmp_path / "in", ["a.png", "b.png"])
    paths[0].unlink()
    write_page(tmp_path / "r.html", paths, [["sky"], ["sea"]], None, WORDS)
    reader = read(tmp_path / "r.html")
    first, second = reader.all(".card")
    assert "no preview" in first.text and "sky" in first.text and len(second.find_elements(By.TAG_NAME, "img")) == 1
    first.find_element(By.CSS_SELECTOR, ".open").click()
    assert reader.one("#detail-name").text == "a.png"
