"""Report sections of `soler1 eval`: a rewarder beside its controls, and on videos.

They draw what `result.json` holds (evals/rewarder.py, evals/realvideo.py) and compute
no figure of their own.
"""

import html
from collections.abc import Mapping
from typing import Any

from soler1_jax.viz import plots
from soler1_jax.viz.page import Raw, section, table, tiles

_SPLIT_NAMES = {
    "unseen": "Tasks that training never showed",
    "train": "Held-out scenes of trained tasks",
}
_COLUMNS = {
    "mae": "MAE, %",
    "pearson": "Pearson",
    "pearson_moving": "Pearson, moving",
    "pearson_pooled": "Pearson, pooled",
    "spearman": "Spearman",
    "kendall_tau_a": "Kendall τₐ",
    "voc_success": "VOC solved",
    "voc_failure": "VOC failed",
    "auc_highest": "AUC of highest",
    "perceived_success": "perceived, %",
    "hack_rate": "hacked",
}
_PERCENT = (-5.0, 105.0)


def rewarder_sections(result: Mapping[str, Any]) -> list[str]:
    """The page of `soler1 eval rewarder`."""
    sections = [
        tiles(
            {
                "Pearson with the truth": result["pearson"],
                "mean absolute error, %": result["mae"],
                "copy slope": result["copy_slope"],
                "answers that parse": f"{100 * result['parse_rate']:.0f} %",
                "AUC, solved or not": result["auc_highest"],
                "queries a second": result["queries_per_second"],
            }
        )
        + f'<p class="note">Copy slope: {html.escape(result["copy_slope_how"])}. '
        "Figures of its own roll-outs: it hears no progress but its own.</p>"
    ]
    for split, figures in result["splits"].items():
        controls = result["controls"][split]
        sections.append(_split_section(result["rewarder"], split, figures, controls))
    sections.append(_thoughts(result["samples"]))
    return sections


def _split_section(
    name: str, split: str, figures: Mapping[str, Any], controls: Mapping[str, Any]
) -> str:
    return section(
        _SPLIT_NAMES.get(split, split),
        _comparison(name, figures, controls),
        '<div class="charts">'
        + _perceived_chart(figures["tasks"])
        + _error_chart(figures["error_by_query"])
        + "</div>",
        "<h3>Per family</h3>",
        _families(figures["families"]),
        _claims(figures["claims"]),
        note=(
            f"{figures['episodes']} episodes, {figures['queries']} queries, "
            f"{100 * figures['success_rate']:.0f} % of the episodes solve the task; "
            f"true success is {figures['true_success']:.0f} %. "
            "Correlations are taken inside each episode; constant answers count as 0. "
            "Moving: episodes whose true progress spans 5 % or more. Pooled: over all "
            "queries at once."
        ),
    )


def _comparison(
    name: str, figures: Mapping[str, Any], controls: Mapping[str, Any]
) -> str:
    rows = [[name, *(figures[k] for k in _COLUMNS)]]
    rows += [
        [f"{name}, {readout}", *(values[k] for k in _COLUMNS)]
        for readout, values in figures["readouts"].items()
    ]
    rows += [
        [f"control: {control}", *(values[k] for k in _COLUMNS)]
        for control, values in controls.items()
    ]
    return table(["rewarder", *_COLUMNS.values()], rows, strong=0)


def _perceived_chart(tasks: Mapping[str, Any]) -> str:
    points = [
        (t["true_success"], t["perceived_success"], task, t["family"])
        for task, t in tasks.items()
    ]
    axes = plots.Axes(
        "true success: mean highest true progress, %",
        "perceived success, %",
        _PERCENT,
        _PERCENT,
    )
    title = "Perceived against true success, one dot a task"
    return plots.scatter_chart(points, axes, title=title)


def _error_chart(errors: list[float]) -> str:
    axes = plots.Axes("query", "mean absolute error, %", None, (0, max(errors) * 1.1))
    line = plots.Series("", list(range(1, len(errors) + 1)), errors, dots=True)
    return plots.line_chart([line], axes, title="Error at each query of an episode")


def _families(families: Mapping[str, Any]) -> str:
    columns = {
        "episodes": "episodes",
        "mae": "MAE, %",
        "pearson": "Pearson",
        "spearman": "Spearman",
        "auc_highest": "AUC",
        "perceived_success": "perceived, %",
        "true_success": "true, %",
        "claim_accuracy": "claims true",
        "claim_majority": "majority",
    }
    rows = [[f, *(v[k] for k in columns)] for f, v in families.items()]
    return table(["family", *columns.values()], rows)


def _claims(claims: Mapping[str, Any]) -> str:
    if not claims:
        return ""
    rows = []
    for kind, row in claims.items():
        mark = "–"
        if row["accuracy"] is not None and row["majority"] is not None:
            above = row["accuracy"] > row["majority"]
            mark = f'<span class="{"right" if above else "wrong"}"></span>'
        keys = ("accuracy", "majority", "balanced", "coverage", "stated", "due")
        rows.append([kind, *(row.get(k) for k in keys), Raw(mark)])
    header = [
        "claim",
        "true",
        "majority rate",
        "balanced",
        "said where due",
        "said",
        "due",
    ]
    return "<h3>What its thoughts claim, against the commonest answer</h3>" + table(
        [*header, "above"], rows
    )


def _thoughts(samples: list[Mapping[str, Any]]) -> str:
    rows = []
    for sample in samples:
        chips = "".join(
            f'<span class="chip {"right" if c["right"] else "wrong"}" '
            f'title="truth: {html.escape(str(c["truth"]))}">'
            f"{html.escape(c['kind'])}: {html.escape(c['said'])}</span>"
            for c in sample["claims"]
        )
        answer = Raw(
            f'<span class="said">{sample["predicted"]:.0f} %</span><br>'
            f'<span class="soft">true&nbsp;{sample["true"]:.0f}</span>'
        )
        where = f"{sample['sentence']}, query {sample['query']}"
        rows.append([where, sample["thought"], Raw(chips), answer])
    return section(
        "Thoughts, drawn at random",
        table(["asked", "thought", "its claims", "answer"], rows, text=True),
    )


def video_sections(result: Mapping[str, Any]) -> list[str]:
    """The page of `soler1 eval videos`."""
    columns = {
        "videos": "videos",
        "solved": "solved",
        "pearson": "Pearson",
        "spearman": "Spearman",
        "mae": "MAE, %",
        "auc_highest": "AUC of highest",
        "perceived_success": "perceived, %",
        "true_success": "true, %",
    }
    rows = [[n, *(v[k] for k in columns)] for n, v in result["summary"].items()]
    summary = table(["rewarder", *columns.values()], rows, strong=0)
    names = list(result["summary"])
    header = ["video", "solved"]
    header += [f"{word}, {name}" for name in names for word in ("Pearson", "MAE")]
    each = [
        [
            video["video"],
            video["solved"],
            *(
                video["by"].get(name, {}).get(k)
                for name in names
                for k in ("pearson", "mae")
            ),
        ]
        for video in result["videos"]
    ]
    charts = "".join(_video_chart(video) for video in result["videos"])
    return [
        section(
            "All videos",
            summary,
            note=(
                "Correlation with the ground truth over all frames of a video, "
                "averaged; a rewarder's constant answers count as 0."
            ),
        ),
        section(
            "Each video", table(header, each), f'<div class="charts">{charts}</div>'
        ),
    ]


def _video_chart(video: Mapping[str, Any]) -> str:
    frames = list(range(len(video["truth"])))
    series = [plots.Series("truth", frames, video["truth"], "var(--truth)", True)]
    for index, (name, row) in enumerate(video["by"].items()):
        color = plots.color_of(index)
        series.append(plots.Series(name, frames, row["progress"], color))
    axes = plots.Axes("frame", "progress, %", None, _range(video))
    return plots.line_chart(series, axes, title=f"{video['video']}: {video['task']}")


def _range(video: Mapping[str, Any]) -> tuple[float, float]:
    lowest = min(min(row["progress"]) for row in video["by"].values())
    return (min(-5.0, lowest - 5.0), 105.0)
