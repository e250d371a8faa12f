"""Pages stand alone, show what the folder holds, and survive what is missing."""

import html.parser
import json
import re
from pathlib import Path

import numpy as np
import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.viz import curves, player, report
from soler1_jax.viz.episodes import save_episode
from soler1_jax.viz.report import write_report


class _Balance(html.parser.HTMLParser):
    """Collects addresses, and fails on tags that do not close."""

    VOID = {"meta", "br", "input"}

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.texts = [], [], []

    def handle_starttag(self, tag, attrs):
        self.addresses += [v for k, v in attrs if k in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        """Closes itself."""

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def _parsed(page):
    parser = _Balance()
    parser.feed(page)
    assert parser.open == []
    return parser


def _rl_run(folder, view):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"command": "rl", "seeds": 2}))
    env = {"date": "today", "packages": {"jax": "0.10.2"}, "device": "cpu"}
    (folder / "env.json").write_text(json.dumps(env))
    task = {"sentence": "open the door", "true_success_after": 0.75, "seeds": 2}
    task["each_seed"] = [{"seed": 0, "after": {"parsed": 1.0}}]
    result = {"wall_seconds": 12.5, "tasks": {"open-door": task}}
    (folder / "result.json").write_text(json.dumps(result))
    lines = [
        {
            "step": i,
            "env_steps": 100 * i,
            "task": "open-door",
            "seed": seed,
            "episodes": {"true_success": (i + seed) / 10},
        }
        for seed in range(2)
        for i in range(5)
    ]
    text = "\n".join(json.dumps(line) for line in lines)
    (folder / "metrics.jsonl").write_text(text + '\n{"step": 9, "true_suc')
    save_episode(folder / "episodes" / "a.npz", view)


def test_a_run_is_one_page_that_loads_nothing(make_view, tmp_path):
    _rl_run(tmp_path / "run", make_view())
    text = write_report(tmp_path / "run").read_text()
    parser = _parsed(text)
    assert parser.addresses == []
    assert not re.search(r"https?://|@import", text)
    assert not re.search(r"url\((?!data:)", text)
    shown = " ".join(parser.texts)
    for word in ("open-door", "0.75", "12.5", "0.10.2", "Learning curves"):
        assert word in shown, word
    assert "each seed" not in shown, "what is too deep for a cell is left out"
    # An episode's words are data, not markup.
    assert "lift the &lt;red&gt; cube" in text and "<red>" not in text
    for t in range(1, 9):
        assert f"thought number {t}" in shown


def test_the_film_steps_through_every_frame(make_view):
    text = player.player(make_view(), "e0")
    data = json.loads(re.search(r'json">(.*?)</script>', text).group(1))
    assert len(data["said"]) == len(data["truth"]) == 9
    assert data["truth"][-1] == 100 and data["said"][-1] == 80
    assert data["thoughts"][0] == [1, "thought number 1"]
    assert 'data-n="9"' in text and "background-size:900% 100%" in text
    places = [float(p) for p in re.findall(r"background-position:([\d.]+)%", text)]
    assert places == pytest.approx([12.5 * t for t in range(1, 9)])


def test_completions_are_shown_as_thoughts(make_view):
    said = "<think> gap shrinks </think><answer>+040</answer>"
    text = player.player(make_view(thoughts=["", *[said] * 8]), "e")
    assert "gap shrinks" in text and "answer&gt;" not in text


def test_long_episodes_are_thinned_but_keep_their_queries(make_view):
    thoughts = [""] * 500
    thoughts[77] = "here"
    text = player.player(make_view(500, thoughts=thoughts, wrist=None), "e")
    data = json.loads(re.search(r'json">(.*?)</script>', text).group(1))
    assert len(data["said"]) <= 121 and data["thoughts"][0][1] == "here"


def test_unknown_truth_and_silent_rewarders_are_shown(make_view):
    view = make_view(true=np.full(9, np.nan), thoughts=[""] * 9, success=None)
    text = player.player(view, "e")
    data = json.loads(re.search(r'json">(.*?)</script>', text).group(1))
    assert data["truth"] == [None] * 9 and "true progress" not in text
    assert "solved" not in text


def test_seeds_share_a_colour_and_have_a_mean(tmp_path, make_view):
    _rl_run(tmp_path / "run", make_view())
    rows = curves.read_metrics(tmp_path / "run")
    assert len(rows) == 10, "a half-written line is dropped"
    series, steps = curves._series(rows, "true_success")
    assert steps == "env_steps" and [s.faint for s in series] == [True, True, False]
    assert series[2].y == pytest.approx([0.05, 0.15, 0.25, 0.35, 0.45])
    assert series[2].x == [0, 100, 200, 300, 400]


def test_an_unfinished_run_has_a_page_too(tmp_path, make_view):
    _rl_run(tmp_path / "run", make_view())
    (tmp_path / "run" / "result.json").unlink()
    out = write_report(tmp_path / "run", tmp_path / "page.html")
    assert "not finished yet" in out.read_text()


def test_folders_without_a_run_are_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match="run folder"):
            write_report(folder)
    (tmp_path / "result.json").write_text('{"half')
    with pytest.raises(UserError, match="whole"):
        write_report(tmp_path)


def test_of_many_episodes_every_kind_is_shown():
    paths = [
        Path(f"episodes/{task}-seed{seed}-{stage}-0.npz")
        for task in ("lift", "open")
        for seed in range(5)
        for stage in ("after", "before")
    ]
    shown = [str(p) for p in report._spread(paths, 6)]
    assert len(shown) == 6
    for kind in ("lift-seed0-after", "lift-seed0-before", "open-seed0-before"):
        assert any(kind in p for p in shown), kind
    assert report._spread(paths[:3], 6) == sorted(paths[:3])
