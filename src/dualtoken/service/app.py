"""`dualtoken app`: the page itself, in Gradio, and what keeps it from calling anybody."""

from __future__ import annotations

import html
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dualtoken.errors import ConfigError, UserError, require
from dualtoken.images import DEFAULT_LIMITS, ImageLimits, is_image_name
from dualtoken.service.page import Page, Seen
from dualtoken.service.serving import announce, answer, listen, load_models

_EXAMPLES = 12
# Only this page's own files: whatever a library would load from elsewhere is refused by the browser.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:"
)

# Gradio pastes by a button alone, and that only where a browser trusts the address: Ctrl+V works everywhere.
_PASTE = """<script>
addEventListener("paste", (event) => {
  const image = [...event.clipboardData.files].find((file) => file.type.startsWith("image/"));
  const input = document.querySelector("#one-picture input[type=file]");
  if (!image || !input) return;
  const pasted = new DataTransfer();
  pasted.items.add(image);
  input.files = pasted.files;
  input.dispatchEvent(new Event("change"));
});
</script>"""
# A gallery is 55 % of the window high: its first row is to be seen whole, captions too, which stand at its foot.
_ROWS = ".thumbnail-item.thumbnail-lg { max-height: 45vh }"


def app(
    models: str | Path | Sequence[str | Path],
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    corrections: Path = Path("corrections"),
    examples: Path | None = None,
    engine: str = "auto",
    device: str = "auto",
    trust: bool = False,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> None:
    """Open a web page that predicts: drop pictures, paste them, or use the camera; until Ctrl-C.

    Nothing is loaded from elsewhere and nothing is sent anywhere: the page works with the network off.

    Args:
        models: model folders, or exported models; several answer side by side. Heat maps need a model folder
        host: address to listen on; who reaches it may use the page
        port: port to listen on, 0 for any that is free
        corrections: folder for answers corrected by hand: a data set for `dualtoken train`
        examples: folder with pictures to try, of which the first twelve are offered
        engine: what runs exported models
        device: auto, cpu, cuda or mps, for model folders
        trust: open files of formats that can run code too (.pt2), since you know who made this one
        limits: what an image may cost

    Raises:
        ConfigError: two models of one name, no examples, or an address that is taken.
        ModelError: a model cannot be loaded.
        MissingExtraError: the extra `app`, or what a model runs in, is not installed.
    """
    offered = [] if examples is None else sorted(file for file in examples.glob("*") if is_image_name(file.name))
    if examples is not None and not offered:
        raise ConfigError(f"{str(examples)!r} holds no pictures.", "Give a folder with some, or leave --examples out.")
    with tempfile.TemporaryDirectory(prefix="dualtoken-app-") as folder, _environment(folder):
        require("gradio", "app")
        loaded = load_models(models, engine=engine, device=device, threads=None, trust=trust)
        with listen(host, port) as listening:
            page = Page(loaded, Path(folder), corrections, limits)
            announce(listening, ", ".join(loaded))
            answer(create_page(page, offered[:_EXAMPLES]), listening, 5)


def create_page(page: Page, examples: Sequence[Path] = ()) -> Any:
    """The page as an ASGI application, with a policy that lets no browser load anything from elsewhere."""
    gradio = require("gradio", "app")
    from fastapi import FastAPI

    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    mounted = gradio.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None), _blocks(gradio, page, examples), path="", footer_links=[],
        allowed_paths=[str(file.resolve()) for file in examples], max_file_size=page.limits.max_bytes,
        head=_PASTE, css=_ROWS, theme=gradio.themes.Default(**fonts), ssr_mode=False, show_error=True, pwa=False,
        enable_monitoring=False,
    )  # fmt: skip

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", _POLICY.encode())]
            await send(message)

        await mounted(scope, receive, with_policy if scope["type"] == "http" else send)

    return guarded


@contextmanager
def _environment(folder: str) -> Iterator[None]:
    """What Gradio reads when it is imported: it tells nobody, and what is uploaded goes with `folder`."""
    own = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_TEMP_DIR": folder}
    before = {name: os.environ.get(name) for name in own}
    os.environ |= own
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ |= {} if value is None else {name: value}


@contextmanager
def _told(gradio: Any) -> Any:
    """A user's mistake as a message on the page, which would take a class called `<b>` for HTML."""
    try:
        yield
    except UserError as error:
        raise gradio.Error(html.escape(str(error), quote=False), duration=None, print_exception=False) from None


def _blocks(gradio: Any, page: Page, examples: Sequence[Path]) -> Any:
    whole, boxes = _correctable(page)
    looks = {"columns": 2, "fit_columns": False, "object_fit": "contain", "height": "auto", "interactive": False}
    with gradio.Blocks(title="DualToken", analytics_enabled=False, delete_cache=(3600, 3600)) as blocks:
        images, answers = gradio.State([]), gradio.State([])
        gradio.Markdown(f"# DualToken\n{', '.join(page.models)}")
        with gradio.Row():
            with gradio.Column(min_width=280):
                photo = gradio.Image(
                    label="One picture: drop it, paste it, or use the camera", type="filepath", image_mode=None,
                    sources=["upload", "clipboard", "webcam"], height=260, elem_id="one-picture",
                )  # fmt: skip
                if examples:
                    gradio.Examples([[str(file.resolve())] for file in examples], [photo], label="Examples")
            with gradio.Column(min_width=280):
                files = gradio.File(label="Several pictures", file_count="multiple", file_types=["image"], height=120)
                folder = gradio.File(label="A folder", file_count="directory", height=120)
        threshold = gradio.Slider(
            0, 1, page.first.config.threshold, step=0.01, label="Lowest confidence shown", visible=page.has_threshold
        )
        start = gradio.Button("Predict", variant="primary")
        shown = []
        with gradio.Row():
            for columns in page.columns:
                with gradio.Column(min_width=280):
                    title = gradio.Markdown()
                    gallery = gradio.Gallery(label="Predictions", **looks)
                    with gradio.Accordion("Table", open=False):
                        table = gradio.Dataframe(headers=columns, interactive=False, wrap=True)
                    taken = gradio.File(label="To take away: tables, pictures", interactive=False)
                shown.append((title, gallery, table, taken))
        which = gradio.Dropdown([], label="Picture", type="index", interactive=True)
        with gradio.Row():
            with gradio.Column(min_width=280):
                why = gradio.Button("Why? (heat map)")
                maps = gradio.Gallery(label="Where the model looks", **looks)
                worth = gradio.Textbox(label="What the map is worth", lines=4, max_lines=12, interactive=False)
            with gradio.Column(min_width=280, visible=whole or boxes):
                right = gradio.Dropdown(
                    list(page.first.classes), value=None, label="Correct class", visible=whole,
                    multiselect=not page.first.kind.exclusive,
                )  # fmt: skip
                objects = gradio.Dataframe(
                    headers=["class", "left", "top", "right", "bottom"], type="array", interactive=True, visible=boxes,
                    label="Correct boxes, in pixels", datatype=["str", *["number"] * 4],
                )  # fmt: skip
                keep = gradio.Button("Keep this correction")
                kept = gradio.Markdown()

        def predict(one: Any, many: Any, whole_folder: Any, least: float) -> list[Any]:
            with _told(gradio):
                found, number = page.images(one, many, whole_folder)
                if number > len(found):
                    gradio.Warning(f"Of {number:,} pictures the first {len(found)} are answered.")
                seen = page.predict(found, least)
            names = [f"{number}  {image.name}" for number, image in enumerate(found, 1)]
            parts: list[Any] = [part for model in seen for part in _parts(model)]
            return [*parts, [str(image) for image in found], seen[0].answers, gradio.Dropdown(names, value=names[0])]

        def choose(given: list[Any], number: int | None) -> list[Any]:
            answered = given[number] if number is not None and number < len(given) else None
            if answered is None or isinstance(answered, UserError):
                return [None, None]
            if boxes:
                return [None, page.boxes(answered)]
            labels = page.labels(answered) if whole else None
            return [labels[0] if labels and page.first.kind.exclusive else labels, None]

        def explain(given: list[str], number: int | None) -> Any:
            with _told(gradio):
                return page.explain(_chosen(given, number))

        def correct(given: list[str], said: list[Any], number: int | None, name: Any, rows: list[list[Any]]) -> str:
            with _told(gradio):
                image = _chosen(given, number)
                if isinstance(unread := said[number or 0], UserError):
                    raise unread  # nothing to train on
                if boxes:
                    total = page.corrections.add_boxes(image, _as_boxes(rows))
                else:
                    total = page.corrections.add_labels(image, [name] if isinstance(name, str) else name or [])
            place = page.corrections.folder
            return f"{total} corrected in `{place}`. Next: `dualtoken train {place} --output RUN`"

        outputs = [part for parts in shown for part in parts]
        # One at a time: an explanation listens to the network, where it would hear a prediction too.
        network = {"api_visibility": "private", "concurrency_limit": 1, "concurrency_id": "network"}
        ask = gradio.on(
            [start.click, photo.upload, files.upload, folder.upload], predict, [photo, files, folder, threshold],
            [*outputs, images, answers, which], **network,
        )  # fmt: skip
        chosen = {"fn": choose, "inputs": [answers, which], "outputs": [right, objects], "api_visibility": "private"}
        ask.then(**chosen)
        which.change(**chosen)
        why.click(explain, [images, which], [maps, worth], **network)
        keep.click(correct, [images, answers, which, right, objects], kept, api_visibility="private")
    return blocks


def _parts(seen: Seen) -> list[Any]:
    return [seen.title, seen.pictures, seen.table, seen.files]


def _correctable(page: Page) -> tuple[bool, bool]:
    """Whether the first model's answers are classes of whole images, or boxes without masks."""
    kind = page.first.kind
    return "tile" not in kind.options, "coco" in kind.forms and "masks" not in kind.forms


def _chosen(images: Sequence[str], number: int | None) -> Path:
    if number is None or number >= len(images):
        raise ConfigError("Predict first, and choose a picture.")
    if not (chosen := Path(images[number])).is_file():
        raise ConfigError("This picture is gone: the page keeps what it is given for an hour or two.", "Give it again.")
    return chosen


def _as_boxes(rows: Sequence[Sequence[Any]]) -> list[Any]:
    """Rows with something in them, as boxes.

    Raises:
        ConfigError: something is no number.
    """
    try:
        return [(str(name), *map(float, edges)) for name, *edges in rows if str(name or "").strip()]
    except (TypeError, ValueError):
        raise ConfigError("Each box needs a class and four numbers: left, top, right, bottom.") from None
