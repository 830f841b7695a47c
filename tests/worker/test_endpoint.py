"""A chat server as a source: it is asked over real HTTP, answers well, badly, slowly, or never."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import logging
import threading
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from saymask.errors import ConfigError, EndpointError
from saymask.masks import compute_box_xywh, compute_iou, decode_coco_rle
from saymask_worker.cli.main import app
from saymask_worker.config.pipeline import ClicksConfig, SourcesConfig
from saymask_worker.config.settings import EndpointConfig, load_worker_settings
from saymask_worker.evaluation.endpoint import load_samples
from saymask_worker.images.decode import decode_image
from saymask_worker.images.types import DecodedImage, VisualPrompt
from saymask_worker.masks.clicks import ClickSegmenter
from saymask_worker.masks.endpoint.boxes import shrink, to_shares
from saymask_worker.masks.endpoint.client import ChatClient
from saymask_worker.masks.endpoint.source import EndpointSource
from saymask_worker.masks.load import load_sam
from saymask_worker.masks.sources import load as load_module
from saymask_worker.masks.sources.base import CandidateSource, SourceContext, SourceMask
from saymask_worker.masks.sources.load import load_sources
from saymask_worker.masks.sources.offers import Offers, collect_offers
from saymask_worker.pipeline.generation.endpoint import EndpointDescriber
from saymask_worker.pipeline.generation.objects import FoundObject
from saymask_worker.weights.store import WeightStore
from tests.backend.http import Handler, LocalServer
from tests.refcoco import write_refcoco
from tests.weights import require_weights
from tests.worker.test_pipeline import build

KEY = "sk-never-shown-0123456789"
IMAGE = DecodedImage(np.zeros((600, 2000, 3), np.uint8), "a" * 64)
BOX = '{"bbox_2d": [100, 200, 300, 800]}'

Answer = Callable[[Handler], None]


class ChatServer:
    """Speaks the protocol; each question gets the next of ``answers``, the last one stays."""

    def __init__(self) -> None:
        self.answers: list[Answer] = [say(BOX)]
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.released = threading.Event()
        outer = self

        class Chat(Handler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                outer.requests.append(json.loads(self.rfile.read(length)))
                outer.headers.append(dict(self.headers))
                assert self.path == "/v1/chat/completions"
                answer = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                answer(self)

        self.local = LocalServer(Chat)

    @property
    def url(self) -> str:
        return f"{self.local.url}/v1"

    def source(self, deadline_s: float = 20.0, **changes: Any) -> EndpointSource:
        config = EndpointConfig(self.url, "eyes-2b", KEY, **changes)
        return EndpointSource(config, Filler(), 0.8, ChatClient(config, deadline_s))  # type: ignore[arg-type]

    def hang(self, handler: Handler) -> None:
        """Begin an answer, and let it wait for the end of the test."""
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(b"{")
        self.released.wait(30)

    def drip(self, handler: Handler) -> None:
        """Send a byte again and again until the client has gone."""
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(OSError):
            while not self.released.wait(0.02):
                handler.wfile.write(b" ")


def say(content: object) -> Answer:
    body = json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]})
    return lambda handler: handler.send(body.encode())


def refuse(status: int, body: str = "", **headers: str) -> Answer:
    return lambda handler: handler.send(body.encode(), status, headers)


class Filler:
    """Fills the whole box, where segment-anything finds what is in it."""

    embedded = 0

    def embed(self, image: DecodedImage) -> DecodedImage:
        self.embedded += 1
        return DecodedImage(image.pixels, image.sha256)

    def answer(self, image: DecodedImage, prompt: VisualPrompt) -> list[SourceMask]:
        assert prompt.box_xyxy is not None
        left, top, right, bottom = (round(side) for side in prompt.box_xyxy)
        mask = np.zeros(image.size_hw, bool)
        mask[top:bottom, left:right] = True
        return [SourceMask(mask, 0.9)]


class Other:
    """A source that always answers."""

    name, fingerprint = "other", "1"

    def segment(self, image: DecodedImage, expression: str) -> list[SourceMask]:
        return Filler().answer(image, VisualPrompt((), (), (10, 10, 500, 500), None))


@pytest.fixture
def server() -> Iterator[ChatServer]:
    server = ChatServer()
    with server.local:
        yield server
        server.released.set()


def collect(*sources: CandidateSource, expression: str = "the red car") -> Offers:
    return collect_offers(
        sources, lambda s: s.segment(IMAGE, expression), IMAGE.size_hw, SourcesConfig()
    )


def test_the_box_of_the_server_is_filled_and_competes(server: ChatServer) -> None:
    source = server.source()
    offers = collect(source, Other())
    mine, other = offers.masks
    assert (mine.source, mine.probability, other.source) == ("endpoint", 0.8, "other")
    assert offers.notices == ()
    rows, columns = np.nonzero(mine.mask)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (200, 120, 600, 480)
    (request,), (headers,) = server.requests, server.headers
    assert (headers["Authorization"], request["model"]) == (f"Bearer {KEY}", "eyes-2b")
    schema = request["response_format"]["json_schema"]
    assert schema["strict"]
    assert schema["schema"]["required"] == ["bbox_2d"]
    picture, text = request["messages"][0]["content"]
    assert '"the red car"' in text["text"]
    sent = base64.b64decode(picture["image_url"]["url"].removeprefix("data:image/jpeg;base64,"))
    assert Image.open(io.BytesIO(sent)).size == (1008, 308), "scaled down, in steps of 28"
    collect(source)
    assert source._clicks.embedded == 1, "once for each image"  # type: ignore[attr-defined]


def test_an_image_without_the_referent_gets_no_mask(server: ChatServer) -> None:
    server.answers = [say('{"bbox_2d": null}')]
    assert collect(server.source()) == Offers()
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("coordinates", "numbers"),
    [
        ("thousand", (250, 500, 750, 1000)),
        ("pixels", (252, 154, 756, 308)),
        ("unit", (0.25, 0.5, 0.75, 1.0)),
        ("thousand", (750, 1000, 250, 500)),
        ("unit", (0.75, 0.5, 0.25, 1.015)),
    ],
)
def test_coordinates_of_every_family_mean_one_box(
    coordinates: Any, numbers: tuple[float, ...]
) -> None:
    assert to_shares(numbers, shrink(IMAGE).size_hw, coordinates) == (0.25, 0.5, 0.75, 1.0)


@pytest.mark.parametrize(
    ("coordinates", "numbers", "said"),
    [
        ("unit", (250, 500, 750, 1000), "outside the image in unit"),
        ("pixels", (0, 0, 500, 800), "outside"),
        ("thousand", (-100, 0, 500, 500), "outside"),
        ("thousand", (0.25, 0.5, 0.75, 1.0), "next to nothing"),
    ],
)
def test_a_box_in_other_coordinates_is_refused(
    coordinates: Any, numbers: tuple[float, ...], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        to_shares(numbers, shrink(IMAGE).size_hw, coordinates)


@pytest.mark.parametrize(
    "content",
    [
        f"Here it is:\n```json\n{BOX}\n```\nAnything else?",
        f'<think>Perhaps {{"bbox_2d": [1, 2, 3, 4]}}? No.</think>{BOX}',
    ],
    ids=["fenced", "thought"],
)
def test_words_around_the_answer_are_skipped(server: ChatServer, content: str) -> None:
    server.answers = [say(content)]
    assert len(collect(server.source()).masks) == 1
    assert len(server.requests) == 1


BROKEN = {
    "words": (say("I see no car."), "no JSON"),
    "broken": (say('{"bbox_2d": [1, 2'), "JSON is broken"),
    "deep": (say('{"a":' * 20_000), "JSON is"),
    "three numbers": (say('{"bbox_2d": [1, 2, 3]}'), "no box of four numbers"),
    "no number": (say('{"bbox_2d": [1, 2, 3, NaN]}'), "no box of four numbers"),
    "outside": (say('{"bbox_2d": [100, 200, 3000, 800]}'), "outside the image"),
    "nothing said": (say(None), "not a chat completion"),
    "no completion": (refuse(200, "[]"), "not a chat completion"),
    "a page": (refuse(200, "<html>"), "not a chat completion"),
}


@pytest.mark.parametrize(("answer", "said"), BROKEN.values(), ids=BROKEN)
def test_an_invalid_answer_is_asked_for_once_more(
    server: ChatServer, answer: Answer, said: str
) -> None:
    server.answers = [answer, say(BOX)]
    assert [mask.source for mask in collect(server.source(), Other()).masks] == [
        "endpoint",
        "other",
    ]
    assert len(server.requests) == 2
    server.answers = [answer]
    offers = collect(server.source(), Other())
    assert [mask.source for mask in offers.masks] == ["other"]
    (notice,) = offers.notices
    assert notice.startswith("The source endpoint is unavailable: The model eyes-2b gives no")
    assert said in notice
    assert len(server.requests) == 4


REFUSED = {
    "401": (refuse(401, f"Incorrect API key provided: {KEY}, sk-ne***789"), "refuses the key"),
    "404": (refuse(404, f"no model eyes-2b; you sent {KEY}"), "status 404: no model eyes-2b"),
    "429": (refuse(429), "refuses further questions"),
    "500": (refuse(500, "CUDA out of memory"), "status 500: CUDA out of memory"),
    "huge": (refuse(200, "x" * 3_000_000), "more than 1000000 bytes"),
    "aborted": (lambda handler: handler.wfile.close(), "cannot be asked"),
}


@pytest.mark.parametrize(("answer", "said"), REFUSED.values(), ids=REFUSED)
def test_a_server_that_refuses_is_named_without_the_key(
    server: ChatServer, answer: Answer, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.answers = [answer]
    source = server.source()
    offers = collect(source, Other())
    assert [mask.source for mask in offers.masks] == ["other"]
    (notice,) = offers.notices
    assert said in notice
    assert len(server.requests) == 1, "not asked again"
    for text in (notice, caplog.text, repr(source._config)):
        assert KEY not in text
        assert "sk-ne***789" not in text


def test_the_key_follows_no_redirect(server: ChatServer) -> None:
    other = ChatServer()
    with other.local:
        server.answers = [refuse(307, Location=f"{other.url}/chat/completions")]
        (notice,) = collect(server.source()).notices
    assert "redirects (307), which is not followed" in notice
    assert other.requests == []


@pytest.mark.parametrize("how", ["hang", "drip"])
def test_a_server_that_is_too_slow_is_left_alone_for_a_while(server: ChatServer, how: str) -> None:
    server.answers = [getattr(server, how)]
    source = server.source(deadline_s=0.2)
    (notice,) = collect(source).notices
    assert "gave no answer within 0.2 s" in notice
    server.answers = [say(BOX)]
    offers = collect(source, Other())
    assert "was too slow; it is asked again after 60 s" in offers.notices[0]
    assert [mask.source for mask in offers.masks] == ["other"]
    assert len(server.requests) == 1


def test_no_server_at_all_is_a_notice() -> None:
    server = ChatServer()
    source = server.source()
    server.local._server.server_close()
    offers = collect(source, Other())
    assert "cannot be asked" in offers.notices[0]
    assert len(offers.masks) == 1


def test_a_proxy_of_the_environment_sees_nothing_of_a_local_server(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert len(collect(server.source()).masks) == 1


def test_the_source_is_built_from_the_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    value = project["project"]["entry-points"]["saymask.sources"]["endpoint"]
    own = EntryPoints([EntryPoint("endpoint", value, "saymask.sources")])
    monkeypatch.setattr(load_module, "entry_points", lambda group: own.select(group=group))
    monkeypatch.setenv("SAYMASK_ENDPOINT_URL", "http://127.0.0.1:8080/v1/")
    assert load_worker_settings().endpoint is None, "without a model"
    monkeypatch.setenv("SAYMASK_ENDPOINT_MODEL", "eyes-2b")
    monkeypatch.setenv("SAYMASK_ENDPOINT_KEY", f"{KEY}\n")
    settings = load_worker_settings()
    assert settings.endpoint == EndpointConfig("http://127.0.0.1:8080/v1", "eyes-2b", KEY)
    assert KEY not in repr(settings)
    fill: Any = Filler()
    context = SourceContext("", "cpu", tmp_path, clicks=fill, endpoint=settings.endpoint)
    (source,) = load_sources("proposals,endpoint", context)
    (measured,) = load_sources("proposals,endpoint:0.75", context)
    assert source.fingerprint != measured.fingerprint
    for wrong in ("1.5", "0", "nan", "often"):
        with pytest.raises(ConfigError, match="cannot be built"):
            load_sources(f"proposals,endpoint:{wrong}", context)
    with pytest.raises(ConfigError, match="No chat server"):
        load_sources("proposals,endpoint", SourceContext("", "cpu", tmp_path, clicks=fill))
    with pytest.raises(ConfigError, match="no model that fills"):
        load_sources("proposals,endpoint", SourceContext("", "cpu", tmp_path))
    for name, value in (("URL", "http://me:secret-word@host/v1"), ("COORDINATES", "inches")):
        with monkeypatch.context() as wrong_too:
            wrong_too.setenv(f"SAYMASK_ENDPOINT_{name}", value)
            with pytest.raises(ConfigError, match=f"SAYMASK_ENDPOINT_{name}") as caught:
                load_worker_settings()
            assert "secret-word" not in str(caught.value)


def check(server: ChatServer, monkeypatch: pytest.MonkeyPatch, *options: str, **own: str) -> Any:
    monkeypatch.setenv("SAYMASK_ENDPOINT_URL", server.url)
    monkeypatch.setenv("SAYMASK_ENDPOINT_MODEL", "eyes-2b")
    for name, value in own.items():
        monkeypatch.setenv(f"SAYMASK_ENDPOINT_{name.upper()}", value)
    return CliRunner().invoke(app, ["endpoint", *options])


def answer_samples(coordinates: str) -> list[Answer]:
    """The boxes of the sample photos as a model of one family writes them."""
    answers = []
    for photo in load_samples():
        size = Image.open(io.BytesIO(photo.read())).size
        sent = [round(side / 28) * 28 for side in size]
        scale = {"thousand": (1000, 1000), "pixels": sent, "unit": (1, 1)}[coordinates]
        ((_, box),) = photo.referents
        numbers = [box[i] / size[i % 2] * scale[i % 2] for i in range(4)]
        answers.append(say(json.dumps({"bbox_2d": numbers})))
    return answers


@pytest.mark.parametrize("coordinates", ["thousand", "pixels", "unit"])
def test_the_check_tells_the_coordinates_of_a_model(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch, coordinates: str
) -> None:
    server.answers = answer_samples(coordinates)
    done = check(server, monkeypatch, coordinates=coordinates)
    assert done.exit_code == 0, done.output
    assert f"SAYMASK_ENDPOINT_COORDINATES={coordinates} fits." in done.output
    server.answers = answer_samples(coordinates)
    other = "pixels" if coordinates == "thousand" else "thousand"
    done = check(server, monkeypatch, coordinates=other)
    assert done.exit_code == 1
    assert f"Set SAYMASK_ENDPOINT_COORDINATES={coordinates}." in done.output


def test_the_check_names_what_a_server_did_not_answer(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers = [refuse(500, "no eyes"), *answer_samples("thousand")[1:]]
    done = check(server, monkeypatch)
    assert done.exit_code == 1
    assert "astronaut.jpg, 'the black helmet': The chat server" in done.output
    server.answers = [say('{"bbox_2d": null}')]
    done = check(server, monkeypatch)
    assert done.exit_code == 1
    assert "finds nothing" in done.output


def test_a_dataset_gives_the_probability_to_rank_by(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    unseen, dog = say('{"bbox_2d": null}'), say('{"bbox_2d": [625, 167, 938, 583]}')
    server.answers = [unseen, dog, unseen, dog, unseen]
    done = check(server, monkeypatch, "--root", str(write_refcoco(tmp_path / "data")))
    assert done.exit_code == 0, done.output
    assert "4 expressions, boxes for 2; right: 2 as thousand" in done.output
    assert "SAYMASK_SOURCES=proposals,endpoint:0.75" in done.output


@pytest.mark.slow
def test_segment_anything_fills_the_box_of_the_server(
    server: ChatServer, samples: dict[str, Path]
) -> None:
    require_weights()
    sam = load_sam("mobile-sam", WeightStore().require("mobile-sam"))
    clicks = ClickSegmenter(sam, torch.float32, ClicksConfig())
    server.answers = [say('{"bbox_2d": [264, 199, 697, 848]}')]
    source = EndpointSource(EndpointConfig(server.url, "eyes-2b"), clicks)
    image = decode_image(samples["flower"].read_bytes())
    (offered,) = source.segment(image, "the large flower")
    x, y, width, height = compute_box_xywh(offered.mask)
    assert (x, y, x + width, y + height) == pytest.approx((169, 85, 446, 362), abs=8)
    assert 0.6 < offered.mask.sum() / (width * height) < 0.9, "a disc, not the box"
    assert "Authorization" not in server.headers[0], "without a key"


def describe(*texts: str) -> Answer:
    """Write the same expressions about each of the first objects, and about one more."""
    objects = [{"number": number, "expressions": texts} for number in range(1, 20)]
    return say(json.dumps({"objects": objects}))


def test_expressions_of_a_model_are_read_with_care(server: ChatServer) -> None:
    describer = EndpointDescriber(EndpointConfig(server.url, "eyes-2b", KEY, "unit"))
    masks = np.zeros((2, 30, 100), bool)
    masks[1, 3:15, 20:60] = True
    objects = [FoundObject(1, "car", 0, 0.9, 0.0)]
    server.answers = [
        say('{"objects": [{"number": 1}]}'),
        describe(" The red\tcar. ", "", "?!", "x" * 200, "The red car", "a", "b", "c"),
    ]
    assert describer.write(IMAGE, masks, objects) == [("The red car", "a", "b")]
    text = server.requests[1]["messages"][0]["content"][1]["text"]
    assert "1: [0.2, 0.1, 0.6, 0.5]\n" in text
    server.answers = [refuse(401)]
    with pytest.raises(EndpointError, match="refuses the key"):
        describer.write(IMAGE, masks, objects)


@pytest.mark.slow
def test_expressions_of_a_model_are_kept_after_the_round_trip_alone(
    server: ChatServer, samples: dict[str, Path], tmp_path: Path
) -> None:
    pipeline = build(tmp_path, endpoint_url=server.url, endpoint_model="eyes-2b")
    data = samples["coffee"].read_bytes()
    prepared, _ = pipeline.prepare(data)
    assert server.requests == [], "nothing is sent unless it is asked for"
    by_rules = pipeline.propose(prepared, data, 9, 0.0, 0)
    assert {pair.described_by for pair in by_rules} == {""}
    assert server.requests == []
    server.answers = [describe("the spoon", "the thing in the saucer")]
    (pair,) = (
        pair
        for pair in pipeline.propose(prepared, data, 9, 0.0, 0, "endpoint")
        if "the spoon" in pair.expressions
    )
    assert pair.described_by == "eyes-2b"
    assert len(server.requests) == 1, "one question for all objects"
    found = pipeline.segment(prepared, "the spoon", 1, preparation=None)
    assert (
        compute_iou(
            *(decode_coco_rle(c.mask.as_dict()) for c in (pair.candidate, *found.candidates))
        )
        > 0.7
    )
    with pytest.raises(ConfigError, match="No chat server"):
        replace(pipeline, describer=None).propose(prepared, data, 9, 0.0, 0, "endpoint")
