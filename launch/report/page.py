"""A report: one HTML file with its pictures inside, which needs no network."""

import base64
import html
import pathlib

import numpy as np

from launch.report.names import SHORT, lost, main_fields, table_rows
from model.sphere.grids import GaussianGrid
from pipeline.verification.points import REGIONS
from pipeline.verification.run import Verification
from train.ledger import attempts, format_summary, summarize

_STYLE = """
:root { --ink: #1c2330; --soft: #5d6778; --line: #dfe3ea; --page: #f6f7f9; }
* { box-sizing: border-box; }
body { margin: 0; font: 15px/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--page); }
header { background: #16324f; color: #fff; padding: 28px 5vw; }
header h1 { margin: 0 0 4px; font-size: 26px; }
header p { margin: 2px 0; color: #c9d6e4; }
nav { position: sticky; top: 0; z-index: 1; background: #fff; padding: 8px 5vw;
  border-bottom: 1px solid var(--line); display: flex; flex-wrap: wrap; gap: 2px 18px;
  font-size: 13px; }
nav a { color: #16324f; text-decoration: none; white-space: nowrap; }
nav a:hover { text-decoration: underline; }
main { max-width: 1240px; margin: 0 auto; padding: 12px 24px 60px; }
section { background: #fff; border: 1px solid var(--line); border-radius: 8px;
  margin: 22px 0; padding: 18px 24px; scroll-margin-top: 72px; }
h2 { margin: 0 0 6px; font-size: 19px; }
p.note { color: var(--soft); margin: 4px 0 12px; }
img { max-width: 100%; height: auto; display: block; margin: 8px auto; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px;
  font-variant-numeric: tabular-nums; }
th, td { padding: 4px 8px; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 1px solid var(--line); color: var(--soft); }
td.card { min-width: 46px; text-align: center; border: 1px solid #fff; }
td.sure { font-weight: 700; }
td.best { font-weight: 700; }
.cards { display: flex; flex-wrap: wrap; gap: 12px 36px; align-items: flex-start; }
summary { cursor: pointer; padding: 4px 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.simulated { background: #fff3d6; color: #6b4a00; padding: 6px 5vw; }
"""
_NOTES = {
    "rmse.png": "Over the whole globe, weighted by area; bands are 95 % of the "
    "bootstrap over initial times, taken as independent.",
    "acc.png": "Correlation of anomalies from the climatology below.",
    "bias.png": "Mean error over the globe; bands as above.",
    "maps.png": "Lines are coasts, from the land-sea mask.",
    "spectra.png": "At the last lead; a forecast that blurs has less power at its "
    "largest wavenumbers than the truth.",
    "zonal.png": "Colours are mean errors at the last lead, lines the truth.",
    "budgets.png": "Integrals between the highest and the lowest pressure level.",
    "ensemble.png": "Spread, corrected for the number of members, should equal the "
    "error of the mean, and ranks be alike.",
}


def write_page(
    file: pathlib.Path,
    made: Verification,
    folder: pathlib.Path,
    drawn: dict[str, str],
    baseline: str,
    workdir: str | None,
) -> None:
    """Writes the page.

    Args:
      file: to write.
      made: what is shown.
      folder: of the pictures.
      drawn: their titles, by name.
      baseline: of the scorecard.
      workdir: of a run, whose learning curves are shown.
    """
    sections: list[tuple[str, str, str]] = [
        ("facts", "What was compared", _facts(made))
    ]
    card = _scorecards(made, baseline)
    if card:
        sections.append(("scorecard", f"Scorecard against {baseline}", card))
    sections.append(("table", "RMSE", _table(made)))
    for name, title in drawn.items():
        if name == "scorecard.png":
            continue
        note = (
            f'<p class="note">{html.escape(_NOTES[name])}</p>' if name in _NOTES else ""
        )
        sections.append((name[:-4], title, note + _image(folder / name, title)))
    if workdir is not None:
        sections.append(("run", "Training", _run(workdir)))
    links = "".join(f'<a href="#{key}">{html.escape(t)}</a>' for key, t, _ in sections)
    body = "".join(
        f'<section id="{key}"><h2>{html.escape(title)}</h2>{content}</section>'
        for key, title, content in sections
    )
    simulated = (
        f'<div class="simulated">{html.escape(made.note)}: not observations, not ERA5.'
        "</div>"
        if made.note
        else ""
    )
    names = ", ".join(f.label for f in made.forecasts)
    times = made.scores.times
    lead = made.scores.leads[-1]
    days = f"{lead / 24:g} days" if lead % 24 == 0 and lead != 24 else f"{lead} hours"
    span = " to ".join(np.datetime_as_string(t, "h") for t in (times[0], times[-1]))
    page = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Forecasts: {html.escape(names)}</title><style>{_STYLE}</style></head>"
        f"<body><header><h1>{html.escape(names)}</h1><p>{len(times)} initial times, "
        f"{span}, up to {days}</p></header>{simulated}<nav>{links}</nav>"
        f"<main>{body}</main></body></html>\n"
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(file.name + ".unfinished")
    unfinished.write_text(page)
    unfinished.rename(file)


def _facts(made: Verification) -> str:
    facts = {
        "Truth": f"{pathlib.PurePath(made.truth.path).name} "
        f"({made.truth.attrs.get('source', '')})",
        "Compared at": f"points of {made.points}"
        + ("" if isinstance(made.points, GaussianGrid) else " (without power spectra)"),
        "Climatology": made.normal,
        "Persistence": "the truth at the initial time",
    }
    if lost(made):
        facts["Not finite"] = "; ".join(lost(made))
    for forecast in made.forecasts:
        attributes = forecast.dataset.attrs
        facts[f"Forecast {forecast.label}"] = (
            f"{attributes.get('source', '')}; members: {forecast.members}; checkpoint "
            f"{attributes.get('checkpoint', '')}"
        )
    items = "".join(
        f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in facts.items()
    )
    return f"<dl>{items}</dl>"


def _scorecards(made: Verification, baseline: str) -> str:
    """Heat maps as tables, one for each forecast and region."""
    scores = made.scores
    shown = main_fields(scores.variables, list(scores.levels))
    labels = [f.label for f in made.forecasts if f.label != baseline]
    columns = np.flatnonzero(scores.leads > 0)
    if not labels or not shown or not columns.size:
        return ""
    columns = columns[::-1][:: -(-len(columns) // 14)][::-1]  # the last one too
    heads = "".join(f"<th>{scores.leads[c]:g} h</th>" for c in columns)
    parts = [
        '<p class="note">Difference of the RMSE in percent: blue is better than '
        f"{html.escape(baseline)}. Bold: its 95 % interval leaves 0 out, by a "
        "bootstrap that takes initial times as independent (neighbours are not).</p>"
    ]
    for label in labels:
        differences = {n: scores.difference(label, baseline, n) for n, _, _ in shown}
        sure = {name: difference.sure for name, difference in differences.items()}
        parts.append("<div>")
        for place, region in enumerate(REGIONS):
            rows = []
            for name, level, k in shown:
                percent = 100 * differences[name].relative[:, k, place]
                cells = "".join(
                    _cell(percent[c], bool(sure[name][c, k, place])) for c in columns
                )
                rows.append(f"<tr><td>{SHORT[name][0]}{level:g}</td>{cells}</tr>")
            title = f"{label}, {region.replace('_', ' ')}"
            opened = " open" if region == "global" else ""
            parts.append(
                f"<details{opened}><summary>{html.escape(title)}</summary>"
                f'<div class="wide"><table><thead><tr><th></th>{heads}</tr></thead>'
                f"<tbody>{''.join(rows)}</tbody></table></div></details>"
            )
        parts.append("</div>")
    note, *cards = parts
    return f'{note}<div class="cards">{"".join(cards)}</div>'


def _cell(percent: float, sure: bool) -> str:
    if not np.isfinite(percent):
        return '<td class="card">–</td>'
    strength = min(abs(percent) / 60, 1.0)
    hue = (33, 102, 172) if percent < 0 else (178, 24, 43)
    red, green, blue = (round(255 + strength * (c - 255)) for c in hue)
    ink = "#fff" if strength > 0.55 else "#1c2330"
    return (
        f'<td class="card{" sure" if sure else ""}" style="color:{ink};'
        f'background:rgb({red},{green},{blue})">{percent:+.0f}</td>'
    )


def _table(made: Verification) -> str:
    heads = "".join(f"<th>{html.escape(x)}</th>" for x in made.scores.labels)
    rows = []
    for what, lead, values in table_rows(made.scores):
        best = np.nanmin(values) if np.isfinite(values).any() else np.nan
        cells = "".join(
            f"<td{' class=best' if x == best else ''}>{x:.4g}</td>" for x in values
        )
        rows.append(f"<tr><td>{what}, {lead} h</td>{cells}</tr>")
    return (
        '<p class="note">All scores, regions and leads are in scores.csv and '
        "scores.json, what the pictures show in CSV files of its own, beside them.</p>"
        f'<div class="wide"><table><thead><tr><th></th>{heads}</tr></thead><tbody>'
        f"{''.join(rows)}</tbody></table></div>"
    )


def _image(file: pathlib.Path, title: str) -> str:
    data = base64.b64encode(file.read_bytes()).decode()
    return f'<img alt="{html.escape(title)}" src="data:image/png;base64,{data}">'


def _run(workdir: str) -> str:
    """Learning curves, and where the time of training went."""
    parts = []
    curves = pathlib.Path(workdir) / "curves.png"
    if curves.exists():
        parts.append(_image(curves, "learning curves"))
    books = attempts(workdir)
    if books:
        parts.append(f"<pre>{html.escape(format_summary(summarize(books)))}</pre>")
    return "".join(parts) or '<p class="note">The run has no curves yet.</p>'
