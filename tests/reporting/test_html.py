from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from scenes import EVIL, page

from famseg.reporting import Sortable, _html, _scene, render
from famseg.reporting._html import Link


class Elements(HTMLParser):
    """Counts tags and keeps addresses and the texts of scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.scripts, self._open = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        found = dict(attrs)
        self.addresses += [found[key] for key in ("src", "href") if key in found]
        self._open = found if tag == "script" else None
        if tag == "script":
            self.scripts.append([found.get("type"), ""])

    def handle_data(self, data):
        if self._open is not None:
            self.scripts[-1][1] += data

    def handle_endtag(self, tag):
        self._open = None


@pytest.fixture
def without_viewer(monkeypatch):
    monkeypatch.setattr(_html, "viewer_source", lambda: None)


def test_everything_is_escaped(without_viewer):
    text = render(page())
    found = Elements(text)
    assert found.tags.count("img") == 3  # the still, three sides and the figure, none of a name
    assert "alert(1)" in text  # shown as text
    assert not any("alert" in script for _, script in found.scripts)
    assert "&lt;b&gt;" in text


def test_a_page_makes_no_request(without_viewer):
    found = Elements(render(page()))
    assert all(address.startswith("data:image/") for address in found.addresses)
    assert "link" not in found.tags
    assert "iframe" not in found.tags


def test_the_policy_names_every_script_by_its_hash(monkeypatch):
    monkeypatch.setattr(_html, "viewer_source", lambda: "window.niivue = {};")
    monkeypatch.setattr(_html, "viewer_packed", lambda: "AAAA")
    text = render(page())
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1].replace("&#39;", "'")
    hashes = re.findall(r"'sha256-([^']+)'", re.search(r"script-src ([^;]+)", policy)[1])
    run = [script for kind, script in Elements(text).scripts if kind is None]
    wanted = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in run]
    assert set(wanted) < set(hashes)  # and NiiVue's own, which is unpacked in the browser
    assert len(hashes) == len(run) + 1
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'")


def test_data_cannot_end_their_element(monkeypatch):
    monkeypatch.setattr(_html, "viewer_source", lambda: "1")
    monkeypatch.setattr(_html, "viewer_packed", lambda: "AAAA")
    found = Elements(render(page()))
    (data,) = (script for kind, script in found.scripts if kind == "application/json")
    assert "<" not in data
    assert "</script" in EVIL  # what it is about


def test_without_the_viewer_the_page_says_how_to_get_it(without_viewer):
    text = render(page())
    assert "make viewer" in text
    assert 'class="viewer-data"' not in text
    assert "data:image/png" in text


def test_without_the_viewer_the_surfaces_are_shown_from_three_sides(without_viewer):
    text = render(page())
    assert 'alt="A ball with a lid: the surfaces from three sides"' in text
    assert text.count('src="data:image/png') == 3


def test_a_link_leads_to_a_file_beside_the_page_and_runs_nothing(without_viewer):
    links = [Link("a <b>", "a case/report.html"), Link("b", "javascript:alert(1)")]
    table = Sortable("Cases", ["case"], [[link] for link in links], [0])
    text = render(replace(page(), tables=[table]))
    assert '<a href="a%20case/report.html">a &lt;b&gt;</a>' in text
    assert '<a href="javascript%3Aalert%281%29">b</a>' in text


def test_numbers_sort_by_value_and_are_shown_with_their_digits(without_viewer):
    text = render(page())
    assert '<td data-value="0.9">0.900</td>' in text
    assert '<td data-value="120.0">120.0</td>' in text
    assert "<td>&ndash;</td>" in text
    assert text.count('class="failed"') == 1


def test_a_changed_viewer_counts_as_none(tmp_path, monkeypatch):
    monkeypatch.setattr(_scene.resources, "files", lambda name: tmp_path)
    (tmp_path / "vendor").mkdir()
    wanted = f'{{"member": "a/niivue.umd.js", "sha256": "{hashlib.sha256(b"x").hexdigest()}"}}'
    (tmp_path / "vendor" / "niivue.json").write_text(wanted)
    for content, found in ((None, None), (b"y", None), (b"x", "x")):
        _scene._vendored.cache_clear()
        if content is not None:
            (tmp_path / "vendor" / "niivue.umd.js").write_bytes(content)
        assert _scene.viewer_source() == found
    _scene._vendored.cache_clear()
