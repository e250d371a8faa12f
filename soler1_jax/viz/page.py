"""The frame of a report page: one HTML file that loads nothing from anywhere.

Light and dark follow the reader's setting. The only script moves the film of an
episode; without it the page still shows every queried frame with its thought.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any

STYLE = """
:root{--paper:#fbfbfa;--card:#fff;--ink:#1d2026;--soft:#666d7a;--rule:#e3e5e9;
--truth:#1d2026;--said:#d9541e;--good:#19794a;--bad:#b3261e;--wash:#f1f2f4;
--series-1:#d9541e;--series-2:#2b6cb0;--series-3:#19794a;--series-4:#8a4fbf;
--series-5:#b7860b;--series-6:#5b6472}
@media(prefers-color-scheme:dark){:root{--paper:#15171b;--card:#1d2025;--ink:#e8e9ec;
--soft:#9aa1ad;--rule:#33373f;--truth:#e8e9ec;--said:#ff8a57;--good:#62c793;
--bad:#ff8f86;--wash:#262a31;--series-1:#ff8a57;--series-2:#7db4ee;--series-3:#62c793;
--series-4:#c49bf0;--series-5:#e3bd55;--series-6:#9aa1ad}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,Helvetica,Arial,sans-serif}
main{max-width:1120px;margin:0 auto;padding:32px 20px 64px}
h1{font-size:27px;line-height:1.2;margin:0 0 6px;letter-spacing:-.01em}
h2{font-size:19px;margin:40px 0 12px}h3{font-size:15px;margin:22px 0 8px}
p{margin:6px 0 12px}.lead,.note{color:var(--soft)}.note{font-size:13px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:10px}
.tile{background:var(--card);border:1px solid var(--rule);border-radius:8px;
padding:10px 14px}.tile b{display:block;font-size:22px;font-weight:650}
.tile span{color:var(--soft);font-size:13px}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--rule);
border-radius:8px}
table{border-collapse:collapse;width:100%;font-size:14px}
td,th{padding:6px 9px;text-align:right;border-bottom:1px solid var(--rule);
font-variant-numeric:tabular-nums;white-space:nowrap}
th{color:var(--soft);font-weight:600;font-size:12.5px;white-space:normal;
line-height:1.25;vertical-align:bottom}
td:first-child,th:first-child,td.word,th.word{text-align:left}
tr:last-child td{border-bottom:0}
tr.strong td{font-weight:650}table.text td{white-space:normal;text-align:left;
vertical-align:top}table.text th{text-align:left}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(440px,100%),1fr));
gap:14px;margin-top:14px}.chart{margin:0;background:var(--card);
border:1px solid var(--rule);border-radius:8px;padding:10px 12px 8px}
.chart svg{width:100%;height:auto;display:block}
.chart figcaption{font-weight:600;font-size:14px;margin-bottom:4px}
.grid{stroke:var(--rule);stroke-width:1}.zero{stroke:var(--soft);stroke-width:1}
.diagonal{stroke:var(--soft);stroke-dasharray:4 4}
.cursor{stroke:var(--series-2);stroke-width:2}
.tick,.label{fill:var(--soft);font-size:12px}.line{fill:none;stroke-width:2.4;
stroke-linejoin:round;stroke-linecap:round}.faint{stroke-width:1.2;opacity:.45}
.dashed{stroke-dasharray:6 5}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;font-size:13px;color:var(--soft)}
.key i{display:inline-block;width:18px;border-top:3px solid var(--c);margin-right:6px;
vertical-align:middle}.key i.dashed{border-top-style:dashed}
.key i.dot{width:11px;height:11px;border:2px solid var(--c);border-radius:50%;
background:var(--c)}.key i.ring{background:none}
.episode{background:var(--card);border:1px solid var(--rule);border-radius:10px;
padding:16px;margin:0 0 18px}.episode h3{margin:0 0 2px}
.episode .chart{border:0;padding:0}
.stage{display:flex;flex-wrap:wrap;gap:18px;align-items:flex-start;margin-top:10px}
.screens{display:flex;gap:8px}.stage>.chart{flex:1 1 400px;min-width:0}
.film{background-repeat:no-repeat;image-rendering:pixelated;border-radius:6px;
background-position:0 0}.screens .film{width:224px}.screens .film.small{width:150px;
align-self:flex-end}
.screens figure{margin:0}.screens figcaption{font-size:12px;color:var(--soft)}
.bar{display:flex;gap:10px;align-items:center;margin-top:8px}
.bar button{border:1px solid var(--rule);background:var(--wash);color:var(--ink);
border-radius:6px;padding:3px 12px;font:inherit;cursor:pointer}
.bar input{flex:1;accent-color:var(--series-2);min-width:80px}
.bar output{color:var(--soft);font-size:13px;font-variant-numeric:tabular-nums}
.now{min-height:2.2em;margin:8px 0 0;font-style:italic}.now:empty{min-height:0}
.shots{display:grid;grid-template-columns:repeat(auto-fill,minmax(185px,1fr));gap:12px;
margin-top:14px;border-top:1px solid var(--rule);padding-top:14px}
.shot{display:flex;gap:10px;font-size:13px;line-height:1.35}
.shot .film{width:64px;flex:none;align-self:flex-start}.shot b{display:block}
.said{color:var(--said)}.soft{color:var(--soft)}
.chip{display:inline-block;border-radius:4px;padding:0 7px;margin:1px 4px 1px 0;
font-size:12.5px;border:1px solid currentColor}.right{color:var(--good)}
.wrong{color:var(--bad)}.right::before{content:"✓ "}.wrong::before{content:"✗ "}
.badge{font-size:12.5px;border-radius:4px;padding:1px 8px;margin-left:8px;
border:1px solid currentColor;font-weight:500;vertical-align:middle}
details{margin:10px 0}summary{cursor:pointer;color:var(--soft)}
pre{overflow:auto;background:var(--wash);padding:12px;border-radius:8px;font-size:12.5px}
@media print{.bar{display:none}}
"""

SCRIPT = """
for(const e of document.querySelectorAll(".episode")){
 const n=+e.dataset.n,slide=e.querySelector("input"),out=e.querySelector("output"),
 now=e.querySelector(".now"),play=e.querySelector("button"),
 films=e.querySelectorAll(".screens .film"),cursor=e.querySelector(".cursor"),
 data=JSON.parse(e.querySelector("script").textContent);
 const show=t=>{slide.value=t;
  for(const f of films)f.style.backgroundPosition=(n>1?100*t/(n-1):0)+"% 0";
  const x=data.left+(data.right-data.left)*(n>1?t/(n-1):0);
  cursor.setAttribute("x1",x);cursor.setAttribute("x2",x);
  out.textContent="frame "+t+" · said "+data.said[t]+
   (data.truth[t]===null?"":" · true "+data.truth[t]);
  let q="";for(const[i,s]of data.thoughts)if(i<=t)q=s;now.textContent=q};
 let timer=0;const stop=()=>{clearInterval(timer);timer=0;play.textContent="Play"};
 slide.addEventListener("input",()=>{stop();show(+slide.value)});
 play.addEventListener("click",()=>{if(timer)return stop();
  if(+slide.value>=n-1)show(0);play.textContent="Stop";
  timer=setInterval(()=>{const t=+slide.value+1;
   if(t>=n)return stop();show(t)},data.pause)});
 show(n-1)}
"""


def page(title: str, lead: str, sections: Sequence[str]) -> str:
    """A whole page.

    Args:
      title: heading; plain text.
      lead: a sentence below it; plain text.
      sections: HTML pieces.
    """
    name = html.escape(title)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{name}</title><style>{STYLE}</style></head><body><main>"
        f'<h1>{name}</h1><p class="lead">{html.escape(lead)}</p>'
        f"{''.join(sections)}</main><script>{SCRIPT}</script></body></html>\n"
    )


def section(title: str, *parts: str, note: str = "") -> str:
    """A titled part; empty if it has no content."""
    content = "".join(parts)
    if not content:
        return ""
    said = f'<p class="note">{html.escape(note)}</p>' if note else ""
    return f"<section><h2>{html.escape(title)}</h2>{said}{content}</section>"


def tiles(values: Mapping[str, Any]) -> str:
    """Headline figures: label -> value."""
    return (
        '<div class="tiles">'
        + "".join(
            f'<div class="tile"><b>{html.escape(number(v))}</b>'
            f"<span>{html.escape(label)}</span></div>"
            for label, v in values.items()
        )
        + "</div>"
    )


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    strong: int | None = None,
    text: bool = False,
) -> str:
    """A table; cells are plain values, or HTML wrapped in `Raw`.

    Args:
      header: column names.
      rows: cells.
      strong: index of a row to set in bold.
      text: columns are prose, aligned left and wrapped.
    """
    if not rows:
        return ""
    kinds = [" class=word" if isinstance(value, str) else "" for value in rows[0]]
    head = "".join(
        f"<th{kind}>{html.escape(name)}</th>"
        for name, kind in zip(header, kinds, strict=True)
    )
    body = "".join(
        f"<tr{' class=strong' if i == strong else ''}>"
        + "".join(
            f"<td{kind}>{cell(value)}</td>"
            for value, kind in zip(row, kinds, strict=True)
        )
        + "</tr>"
        for i, row in enumerate(rows)
    )
    kind = ' class="text"' if text else ""
    return (
        f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


class Raw(str):
    """HTML to be put into a table as it is."""


def cell(value: Any) -> str:
    """One value as HTML."""
    return value if isinstance(value, Raw) else html.escape(number(value))


def number(value: Any) -> str:
    """A value as people read it: three significant digits, "–" for nothing."""
    if value is None or (isinstance(value, float) and value != value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if value and abs(value) < 0.001:
            return f"{value:.1e}"
        digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
        shown = f"{value:,.{digits}f}"
        shown = shown.lstrip("-") if float(shown.replace(",", "")) == 0 else shown
        return shown.replace("-", "−")
    return f"{value:,}" if isinstance(value, int) else str(value)


def folded(summary: str, content: str) -> str:
    """Content that opens on a click."""
    return f"<details><summary>{html.escape(summary)}</summary>{content}</details>"
