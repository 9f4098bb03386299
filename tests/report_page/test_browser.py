"""The report page in headless Chromium: what a person does with it, by mouse and by keyboard."""

import re
import shutil

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
if CHROMIUM is None:
    pytest.skip("no Chromium is installed", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
SHOWN = "#gallery li:not([hidden])"
# Draws the canvas into a small one and counts its colours.
COUNT_COLORS = """canvas => {
  const copy = document.createElement("canvas"); copy.width = copy.height = 64;
  const context = copy.getContext("2d"); context.drawImage(canvas, 0, 0, 64, 64);
  return new Set(new Uint32Array(context.getImageData(0, 0, 64, 64).data.buffer)).size; }"""


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture
def open_page(browser):
    """Opens a file; at the end no error was reported, and no request has left the page."""
    contexts, problems = [], []

    def open_(path, width: int = 1280, scheme: str = "light"):
        viewport = {"width": width, "height": 900}
        contexts.append(browser.new_context(viewport=viewport, color_scheme=scheme))
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: problems.append(message.text))
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("request", lambda r: re.match("file:|data:", r.url) or problems.append(r.url))
        tab.goto(path.as_uri())
        tab.wait_for_selector("#gallery li")
        return tab

    yield open_
    for context in contexts:
        context.close()
    assert problems == []


def shown_cases(tab) -> list[int]:
    return tab.eval_on_selector_all(SHOWN, "items => items.map(item => Number(item.dataset.case))")


def test_every_part_has_a_card_and_every_chart_is_drawn(open_page, page):
    tab = open_page(page)
    assert tab.inner_text("#count") == "12 of 12 parts" and len(shown_cases(tab)) == 12
    tab.wait_for_function("document.querySelectorAll('.chart svg').length === 8")
    assert tab.locator("figure").count() == 8
    picture = tab.locator(SHOWN).first.locator("svg")
    assert picture.locator("image").count() == 2  # the whole and the part
    for name in ("predicted", "true"):
        assert picture.locator(f"circle.{name}").count() == 1


def test_the_cards_are_sorted_and_filtered(open_page, page):
    """Part i is wrong by i / 50, twins may be nearer, and less confident than part i - 1."""
    tab = open_page(page)
    tab.select_option("[name=sort]", "surest")
    assert shown_cases(tab) == list(range(12))
    tab.select_option("[name=sort]", "surewrong")
    wrong = [case for case in shown_cases(tab) if case >= 3][0]
    assert shown_cases(tab)[0] == wrong
    tab.select_option("[name=sort]", "worst")
    worst = shown_cases(tab)
    tab.select_option("[name=sort]", "best")
    assert shown_cases(tab)[0] == worst[-1] == 0
    tab.select_option("[name=twins]", "with")
    assert sorted(shown_cases(tab)) == [0, 1, 4, 5, 8, 9]
    tab.fill("[name=name]", "M1 A")
    assert shown_cases(tab) == [4] and tab.inner_text("#count") == "1 of 12 parts"
    tab.click("[type=reset]")
    tab.wait_for_function("document.querySelector('#count').textContent === '12 of 12 parts'")
    tab.fill("[name=cmin]", "0.9")
    assert shown_cases(tab) == [0]


def test_a_brush_over_the_chart_filters_the_gallery(open_page, page):
    tab = open_page(page)
    chart = tab.locator("#chart-scatter svg")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    middle = box["x"] + box["width"] * 0.55
    tab.mouse.move(middle, box["y"] + 15)
    tab.mouse.down()
    tab.mouse.move(box["x"] + box["width"] - 12, box["y"] + 245, steps=4)
    tab.mouse.up()
    tab.wait_for_function("document.querySelector('[name=cmin]').value > 0.4")
    low = float(tab.input_value("[name=cmin]"))
    expected = [case for case in range(12) if 0.95 - 0.9 * case / 11 >= low]
    assert 2 < len(expected) < 8 and set(shown_cases(tab)) <= set(expected)
    assert len(shown_cases(tab)) >= len(expected) - 1


def test_a_click_opens_the_case_and_the_cube_turns(open_page, page):
    tab = open_page(page)
    tab.locator(SHOWN).nth(1).locator("button").click()
    assert tab.locator("#case").is_visible()
    assert tab.inner_text("#case-title") == "m2 · c"
    text = tab.inner_text("#poses")
    assert all(name in text for name in ("predicted", "labelled", "hypothesis 1", "hypothesis 2"))
    tab.wait_for_timeout(100)
    canvas = tab.locator("#view")
    assert canvas.evaluate(COUNT_COLORS) > 10
    before = canvas.evaluate("canvas => canvas.toDataURL()")
    box = canvas.bounding_box()
    tab.mouse.move(box["x"] + 100, box["y"] + 100)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 180, box["y"] + 120, steps=3)
    tab.mouse.up()
    turned = canvas.evaluate("canvas => canvas.toDataURL()")
    assert turned != before
    tab.click("[data-view=side]")
    assert canvas.evaluate("canvas => canvas.toDataURL()") == before


def test_a_box_shows_what_the_part_attended_to(open_page, page):
    """A map over the crop of the whole, in place of the part's image; also in the next case."""
    tab = open_page(page)
    tab.locator(SHOWN).first.locator("button").click()
    whole = tab.locator("#case-whole svg")
    assert whole.locator("image").count() == 2 and whole.locator(".attention").count() == 0
    tab.check("#attention")
    assert whole.locator("circle.attending").count() == 1
    overlay = whole.locator("image.attention")
    assert whole.locator("image").count() == 2 and overlay.count() == 1
    assert [overlay.get_attribute(name) for name in ("x", "y", "width")] == ["0.25", "0.25", "0.5"]
    opaque = overlay.evaluate(
        """async node => {
          const image = new Image(); image.src = node.getAttribute("href"); await image.decode();
          const canvas = document.createElement("canvas"); canvas.width = canvas.height = 8;
          const context = canvas.getContext("2d"); context.drawImage(image, 0, 0);
          return [...context.getImageData(0, 0, 8, 8).data].flatMap(
            (v, i) => i % 4 === 3 && v ? [(i - 3) / 4] : []); }"""
    )
    assert opaque == [2 * 8 + 5]
    tab.click("#next")
    assert overlay.count() == 1
    tab.uncheck("#attention")
    assert overlay.count() == 0 and whole.locator("image").count() == 2


def test_everything_can_be_done_with_the_keyboard(open_page, page):
    tab = open_page(page)
    tab.locator(SHOWN).first.locator("button").focus()
    tab.keyboard.press("Enter")
    first = tab.inner_text("#case-title")
    tab.keyboard.press("ArrowRight")
    assert tab.inner_text("#case-title") != first
    canvas = tab.locator("#view")
    canvas.focus()
    before = canvas.evaluate("canvas => canvas.toDataURL()")
    tab.keyboard.press("ArrowLeft")
    assert canvas.evaluate("canvas => canvas.toDataURL()") != before
    tab.keyboard.press("Escape")
    assert not tab.locator("#case").is_visible()


@pytest.mark.parametrize("width", [400, 1600])
def test_the_page_fits_the_window(open_page, page, width):
    tab = open_page(page, width, "dark")
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert tab.evaluate(overflow) == 0
    tab.locator(SHOWN).first.locator("button").click()
    assert tab.evaluate(overflow) == 0
    assert tab.locator("#case").bounding_box()["width"] <= width


def test_dark_and_light_have_different_colours(open_page, page):
    background = "getComputedStyle(document.body).backgroundColor"
    colors = {open_page(page, scheme=name).evaluate(background) for name in ("light", "dark")}
    assert len(colors) == 2


def test_without_a_camera_the_page_says_so_and_draws_no_places(open_page, make_page):
    tab = open_page(make_page(None))
    assert "No camera was fitted" in tab.inner_text("#no-camera")
    assert len(shown_cases(tab)) == 12
    assert tab.locator("svg.whole circle").count() == 0
    assert tab.locator("svg.whole image").count() == 12  # the wholes, no parts pasted
    tab.locator(SHOWN).first.locator("button").click()
    assert tab.locator("[data-view=image]").is_hidden()
    assert tab.locator("#view").evaluate(COUNT_COLORS) > 10
