"""Tables and plots of the results, written into docs/learning.md between its markers, and into docs/learning/."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

Entry = Mapping[str, Any]
Key = tuple[Any, ...]

TASKS = {
    "mlp": "MLP",
    "conv": "CNN",
    "resnet": "residual net",
    "distorted mlp": "MLP, distorted images",
    "distorted conv": "CNN, distorted images",
    "distorted resnet": "residual net, distorted images",
    "transformer": "transformer",
}
STARTS = {
    "random": "random init",
    "random pad": "random pad",
    "random layers": "random layers",
    "fresh": "fresh",
    "auto": "auto (default)",
    "split": "split",
    "copy": "copy",
    "noise": "noise",
    "default": "default",
    "identity": "identity",
    "residual-copy": "residual-copy",
    "residual-new": "residual-new",
    "parametric": "parametric",
    "auto + default": "auto + default",
    "fresh + default": "fresh + default",
}
NORMED = ("transformer",)
DEFAULTS = {"wider x2": "auto", "wider x4": "auto", "deeper": "default", "both": "auto + default"}
TREATMENTS = {
    "state": "the teacher's optimizer state, grown",
    "shrunk": "weights before norms shrunk to He's scale",
}
BUDGETS = (0.2, 0.5, 1.0)


@dataclass(frozen=True)
class Group:
    """The runs of one start in one comparison: all seeds, at the learning rate that was found for seed 0."""

    entries: Sequence[Entry]

    @property
    def run(self) -> Mapping[str, Any]:
        return self.entries[0]["run"]

    @property
    def is_text(self) -> bool:
        return bool(self.run["task"] == "transformer")

    def scores(self, entry: Entry) -> list[tuple[int, float]]:
        """(step, score): accuracy, or minus the loss of the language model. The more the better."""
        return [(step, -loss if self.is_text else accuracy) for step, loss, accuracy in entry["curve"]]

    @property
    def ends(self) -> list[float]:
        return [self.scores(entry)[-1][1] for entry in self.entries]

    @property
    def end(self) -> float:
        return float(np.mean(self.ends))

    @property
    def loss(self) -> float:
        return float(np.mean([entry["curve"][-1][1] for entry in self.entries]))

    def reaching(self, level: float) -> list[float]:
        """The part of its steps after which each run is at a score; infinite where it never is."""
        return [
            next((step for step, score in self.scores(entry) if score >= level), np.inf)
            / entry["curve"][-1][0]
            for entry in self.entries
        ]

    @property
    def dips(self) -> list[float]:
        """How far each run falls below its first score, relative to that."""
        return [
            max(0.0, (scores[0][1] - min(score for _, score in scores)) / abs(scores[0][1]))
            for scores in map(self.scores, self.entries)
        ]

    def __str__(self) -> str:
        if self.is_text:
            return f"{-self.end:.3f} ± {np.std(self.ends):.3f}"
        return f"{100 * self.end:.1f} ± {100 * np.std(self.ends):.1f}"


class Results:
    """All complete groups of runs, by what they are."""

    def __init__(
        self, entries: Iterable[Entry], passed: Mapping[Key, bool] | None = None, seeds: int = 3
    ) -> None:
        self.passed = passed or {}
        self.entries = [
            entry for entry in entries if entry["run"]["warmup"] == 0.05 and not entry["run"]["constant"]
        ]
        rates: dict[Key, dict[float, list[Entry]]] = defaultdict(lambda: defaultdict(list))
        for entry in self.entries:
            rates[_key(entry["run"])][entry["run"]["rate"]].append(entry)
        self.searched = rates
        self.groups: dict[Key, Group] = {}
        for key, found in rates.items():
            complete = [Group(some) for some in found.values() if len(some) >= seeds]
            if complete:
                self.groups[key] = min(complete, key=lambda group: group.entries[0]["curve"][-1][1])
        for key, group in list(self.groups.items()):
            if (
                key[4] == "split" and key[0] not in NORMED
            ):  # where no norm reads channels, this is what the default does
                self.groups[*key[:4], "auto", key[5]] = group

    def cells(self, growth: str) -> list[Key]:
        """(task, optimizer, teacher) of a growth of which random initialisation and a growth are there."""
        keys = {key[:3] for key in self.groups if key[3] == growth and key[2] != "any"}
        order = list(TASKS)
        return sorted(
            (key for key in keys if self.random((*key, growth))),
            key=lambda key: (order.index(key[0]), key[1:]),
        )

    def random(self, cell: Key, steps: float = 1.0) -> Group | None:
        """Random initialisation of the architecture of a cell: it has no teacher."""
        task, optimizer, _, growth = cell
        for key, group in self.groups.items():
            if (
                key[:4] == (task, optimizer, "any", growth)
                and key[4].startswith("random: ")
                and key[5] == steps
            ):
                return group
        return None

    def of(self, cell: Key, start: str, steps: float = 1.0) -> Group | None:
        """The runs of a start; "random pad" and "random layers" whatever scheme made their architecture."""
        if start == "random":
            return self.random(cell, steps)
        for key, group in self.groups.items():
            if key[:4] == cell and key[4].partition(": ")[0] == start and key[5] == steps:
                return group
        return None

    def starts(self, growth: str) -> list[str]:
        """The starts that a growth was tried with."""
        there = {key[4].partition(": ")[0] for key in self.groups if key[3] == growth and key[5] == 1.0}
        return [start for start in STARTS if start in there]


def _key(run: Mapping[str, Any]) -> Key:
    return tuple(run[name] for name in ("task", "optimizer", "teacher", "growth", "start", "steps"))


def write(entries: Iterable[Entry], passed: Mapping[Key, bool], docs: Path) -> None:
    """Put the tables into docs/learning.md and the plots into docs/learning/.

    `passed` tells of (task, growth, scheme, seed) whether `onnx-grow check-trainable` would pass it.
    """
    results = Results(entries, passed)
    page = docs / "learning.md"
    text = page.read_text()
    for name, table in TABLES.items():
        begin, end = f"<!-- begin {name}: written by bench/learning -->", f"<!-- end {name} -->"
        block = f"{begin}\n{table(results)}\n{end}"
        text = re.sub(
            f"{re.escape(begin)}.*?{re.escape(end)}", lambda _, block=block: block, text, flags=re.DOTALL
        )
    page.write_text(text)
    (docs / "learning").mkdir(exist_ok=True)
    for growth, name in (("wider x2", "wider"), ("deeper", "deeper")):
        _plot(results, growth, docs / "learning" / f"{name}.svg")


def ends(results: Results) -> str:
    """Where each start ends, comparison by comparison."""
    parts = []
    for growth in dict.fromkeys(key[3] for key in results.groups if key[3] != "none"):
        starts = results.starts(growth)
        rows = [
            [
                f"{TASKS[cell[0]]}, {_optimizer(cell[1])}, {cell[2]} teacher",
                _level(results, (*cell, growth)),
                *(_bold(results, (*cell, growth), start, starts) for start in starts),
            ]
            for cell in results.cells(growth)
        ]
        if rows:
            parts.append(
                f"**{growth}**\n\n" + _table(["", "teacher", *(STARTS[start] for start in starts)], rows)
            )
    return "\n\n".join(parts)


def summary(results: Results) -> str:
    """What each start does over all comparisons of a growth, on one kind of data, in which it takes part."""
    rows = []
    growths = dict.fromkeys(key[3] for key in results.groups if key[3] != "none")
    for growth, data in product(growths, ("images", "distorted", "text")):
        cells = [cell for cell in results.cells(growth) if _data(cell[0]) == data]
        for start in results.starts(growth):
            pairs = [
                (group, base)
                for cell in cells
                if (group := results.of((*cell, growth), start)) and (base := results.random((*cell, growth)))
            ]
            if not pairs or start == "random":
                continue
            parts = [part for group, base in pairs for part in group.reaching(base.end)]
            ahead = float(np.mean([group.end - base.end for group, base in pairs]))
            loss = np.exp(np.mean([np.log(group.loss / base.loss) for group, base in pairs]))
            dips = [dip for group, _ in pairs for dip in group.dips]
            rows.append(
                [
                    growth,
                    data,
                    STARTS[start],
                    str(len(pairs)),
                    f"{-ahead:+.3f} nats" if data == "text" else f"{100 * ahead:+.2f}",
                    f"{loss:.2f}",
                    f"{np.mean(np.isfinite(parts)):.0%}".replace("%", " %"),
                    _part(float(np.median(parts))),
                    ""
                    if start.startswith("random")
                    else f"{100 * np.mean(dips):.1f} (most {100 * max(dips):.1f})",
                ]
            )
    head = [
        "growth",
        "data",
        "start",
        "comparisons",
        "end, points",
        "loss, ratio",
        "reach it",
        "after (median)",
        "dip, %",
    ]
    return _table(head, rows)


def budgets(results: Results) -> str:
    """Strong teachers' students and random initialisation by how long they train, each length with a schedule and a search of its own."""
    rows = []
    growth = "wider x2"
    for cell in [cell for cell in results.cells(growth) if cell[1:] == ("adam", "strong")]:
        full = (*cell, growth)
        every = {
            start: [group for part in BUDGETS if (group := results.of(full, start, part))]
            for start in ("random", "auto", "fresh", "split")
        }
        complete = {start: groups for start, groups in every.items() if len(groups) == len(BUDGETS)}
        best = [max(group.end for group in groups) for groups in zip(*complete.values(), strict=True)]
        for start, groups in complete.items() if len(complete) > 1 else ():
            ends = [
                f"**{group}**" if group.end == top else str(group)
                for group, top in zip(groups, best, strict=True)
            ]
            dips = " / ".join(f"{100 * np.mean(group.dips):.1f}" for group in groups)
            rows.append(
                [
                    TASKS[cell[0]],
                    _level(results, full),
                    STARTS[start],
                    *ends,
                    "" if start == "random" else dips,
                ]
            )
    lengths = [f"{part:.0%} of the steps".replace("%", " %") for part in BUDGETS]
    return _table(["", "teacher", "start", *lengths, "dips, %"], rows)


def treatments(results: Results) -> str:
    """What else was done before training, beside the same growth without it: where it ends, and how far it falls."""
    rows = []
    for treatment, told in TREATMENTS.items():
        for key, group in sorted(results.groups.items(), key=lambda item: str(item[0])):
            scheme, _, which = key[4].partition(", ")
            if which != treatment or (plain := results.of(key[:4], scheme)) is None:
                continue
            name = f"{TASKS[key[0]]}, {scheme}"
            dips = [f"{100 * np.mean(each.dips):.1f}" for each in (plain, group)]
            rows.append([told, name, str(plain), str(group), *dips])
    return _table(["", "", "without", "with", "dip without, %", "dip with, %"], rows)


def compute(results: Results) -> str:
    """Half the steps for what has grown, and as much compute as teacher and student together for random initialisation."""
    rows = []
    for growth, start in (("wider x2", "auto"), ("deeper", "default")):
        for cell in results.cells(growth):
            full = (*cell, growth)
            half, long = results.of(full, start, 0.5), results.random(full, 1.5)
            if half or long:
                name = f"{growth}: {TASKS[cell[0]]}, {_optimizer(cell[1])}, {cell[2]} teacher"
                rows.append(
                    [
                        name,
                        *(
                            str(group or "")
                            for group in (results.random(full), long, results.of(full, start), half)
                        ),
                    ]
                )
    return _table(["", "random init", "random init, 1.5 x the steps", "grown", "grown, half the steps"], rows)


def rates(results: Results) -> str:
    """What the learning rate does to a grown network, as a part of the teacher's own; seed 0."""
    found: dict[tuple[str, float], list[tuple[float, float]]] = defaultdict(list)
    for key, by_rate in results.searched.items():
        task, optimizer, teacher, growth, start, steps = key
        if (
            start not in ("auto", "fresh", "default", "split", "as it is")
            or teacher != "strong"
            or steps != 1.0
        ):
            continue
        own = results.searched.get((task, optimizer, "strong", "none", "random", 1.0))
        base = results.random((task, optimizer, teacher, "wider x2" if growth == "none" else growth))
        if own is None or base is None:
            continue
        best = min(own, key=lambda rate: own[rate][0]["curve"][-1][1])
        for rate, entries in by_rate.items():
            group = Group([entry for entry in entries if entry["run"]["seed"] == 0])
            name = "not grown" if growth == "none" else f"{growth.partition(' x')[0]}, {start}"
            found[name, round(2 * np.log10(rate / best)) / 2].append((group.loss / base.loss, group.dips[0]))
    names = {-1.0: "1/10", -0.5: "1/3", 0.0: "1", 0.5: "3"}
    rows = []
    for (name, power), some in sorted(found.items()):
        if power in names:
            loss = np.exp(np.mean([np.log(loss) for loss, _ in some]))
            dip = 100 * np.mean([dip for _, dip in some])
            rows.append([name, names[power], str(len(some)), f"{loss:.2f}", f"{dip:.1f}"])
    head = ["growth", "learning rate / teacher's", "comparisons", "loss at the end / random init's", "dip, %"]
    return _table(head, rows)


def checks(results: Results) -> str:
    """Whether gradient reaches what is new in two steps, and how many pairs of equal rows are still equal after 100."""
    rows = []
    for growth in dict.fromkeys(key[3] for key in results.groups if key[3] != "none"):
        for start in results.starts(growth):
            entries = [
                entry
                for key, group in results.groups.items()
                if key[3] == growth and key[4].partition(": ")[0] == start
                for entry in group.entries
                if entry["gradient"] is not None
            ]
            if entries:
                reached = [100 * entry["gradient"] for entry in entries]
                pairs, still = np.sum([entry["twins"] or (0, 0) for entry in entries], axis=0)
                gradient = f"{np.mean(reached):.1f} (least {min(reached):.1f})"
                passed = [ok for key, ok in results.passed.items() if key[1:3] == (growth, start)]
                told = f"{sum(passed)} of {len(passed)}" if passed else ""
                rows.append([growth, STARTS[start], gradient, f"{still} of {pairs}" if pairs else "", told])
    head = [
        "growth",
        "start",
        "new parameters with gradient after 2 steps, %",
        "equal rows that still are after 100 steps",
        "pass `onnx-grow check-trainable`",
    ]
    return _table(head, rows)


def aims(results: Results) -> str:
    """What was hoped for, and how near the default comes to it: by growth, over all comparisons and seeds."""
    head, columns = [""], []
    for growth, start in DEFAULTS.items():
        groups = {
            cell: group for cell in results.cells(growth) if (group := results.of((*cell, growth), start))
        }
        if not groups:
            continue
        head.append(f"{growth}, {start}")
        dips = [dip for group in groups.values() for dip in group.dips]
        low = [dip for cell in groups for dip in _at_a_tenth(results, (*cell, growth), start)]
        halves = [
            part <= 0.5
            for cell, group in groups.items()
            if (base := results.random((*cell, growth)))
            for part in group.reaching(base.end)
        ]
        entries = [entry for group in groups.values() for entry in group.entries]
        reached = [100 * entry["gradient"] for entry in entries if entry["gradient"] is not None]
        pairs, still = np.sum([entry["twins"] or (0, 0) for entry in entries], axis=0)
        passed = [ok for key, ok in results.passed.items() if key[1:3] == (growth, start)]
        columns.append(
            [
                *_ahead(groups, lambda cell, growth=growth: results.random((*cell, growth))),
                f"{np.mean(halves):.0%}".replace("%", " %"),
                *_ahead(groups, lambda cell, growth=growth: _naive(results, (*cell, growth))),
                _fallen(dips),
                _fallen(low),
                f"{np.mean(reached):.1f}" if reached else "",
                f"{sum(passed)} of {len(passed)}" if passed else "",
                f"{still} of {pairs}" if pairs else "",
            ]
        )
    told = [
        "end against random init: images, points",
        "text, nats",
        "comparisons that end no worse",
        "runs that are there in half of the steps (aim: all)",
        "end against random pad or random layers: images, points",
        "text, nats",
        "comparisons that end no worse",
        "fall below the teacher, %, at the rate that ends best; runs within 2 %",
        "the same at a tenth of the teacher's rate",
        "new parameters with gradient after two steps, % (aim: 99)",
        "pass `onnx-grow check-trainable`, which leaves out what is dead in the teacher",
        "equal rows that still are after 100 steps (aim: none)",
    ]
    return _table(head, list(map(list, zip(told, *columns, strict=True))))


def _ahead(groups: Mapping[Key, Group], base: Callable[[Key], Group | None]) -> list[str]:
    """By how much groups end ahead of others on images and on text, and how many do."""
    pairs = [(group, other) for cell, group in groups.items() if (other := base(cell))]
    told = []
    for is_text in (False, True):
        ends = [group.end - other.end for group, other in pairs if group.is_text == is_text]
        sign, scale, digits = (-1, 1, 3) if is_text else (1, 100, 2)
        told.append(f"{sign * scale * np.mean(ends):+.{digits}f}" if ends else "")
    return [*told, f"{sum(g.end >= o.end for g, o in pairs)} of {len(pairs)}" if pairs else ""]


def _naive(results: Results, cell: Key) -> Group | None:
    """The paper's baseline of a growth."""
    return results.of(cell, "random layers" if cell[3] == "deeper" else "random pad")


def _at_a_tenth(results: Results, cell: Key, start: str) -> list[float]:
    """How far runs fall below their teacher at a tenth of its learning rate, as far as there are any."""
    task, optimizer = cell[:2]
    own = results.searched.get((task, optimizer, "strong", "none", "random", 1.0))
    scheme = "split" if start == "auto" and task not in NORMED else start
    found = results.searched.get((*cell, scheme, 1.0), {})
    if own is None:
        return []
    best = min(own, key=lambda rate: own[rate][0]["curve"][-1][1])
    near = [rate for rate in found if round(2 * np.log10(rate / best)) == -2]
    return Group([entry for rate in near for entry in found[rate]]).dips


def _fallen(dips: Sequence[float]) -> str:
    if not dips:
        return ""
    return f"{100 * np.mean(dips):.1f}; {sum(dip <= 0.02 for dip in dips)} of {len(dips)}"


TABLES: Mapping[str, Callable[[Results], str]] = {
    "summary": summary,
    "aims": aims,
    "budgets": budgets,
    "treatments": treatments,
    "ends": ends,
    "compute": compute,
    "rates": rates,
    "checks": checks,
}


def _level(results: Results, cell: Key) -> str:
    """Where the teachers stand."""
    grown = next(
        (group for start in STARTS if not start.startswith("random") and (group := results.of(cell, start))),
        None,
    )
    if grown is None:
        return ""
    first = float(np.mean([grown.scores(entry)[0][1] for entry in grown.entries]))
    return f"{-first:.3f}" if grown.is_text else f"{100 * first:.1f}"


def _bold(results: Results, cell: Key, start: str, starts: Sequence[str]) -> str:
    group = results.of(cell, start)
    if group is None:
        return ""
    best = max(other.end for name in starts if (other := results.of(cell, name)))
    return f"**{group}**" if group.end == best else str(group)


def _data(task: str) -> str:
    return "text" if task == "transformer" else "distorted" if task.startswith("distorted") else "images"


def _optimizer(name: str) -> str:
    return {"sgd": "SGD", "adam": "AdamW"}[name]


def _part(part: float) -> str:
    return f"{100 * part:.0f} % of its steps" if np.isfinite(part) else "never"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plot(results: Results, growth: str, path: Path) -> None:
    """Curves of strong teachers' students under AdamW: mean of the seeds, and their spread."""
    from matplotlib import pyplot as plt

    mpl.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "onnx-grow", "font.size": 8, "font.family": "sans-serif"}
    )
    cells = [cell for cell in results.cells(growth) if cell[1:] == ("adam", "strong")]
    if not cells:
        return
    figure, axes = plt.subplots(
        1, len(cells), figsize=(2.9 * len(cells), 2.6), layout="constrained", squeeze=False
    )
    for axis, cell in zip(axes[0], cells, strict=True):
        for k, start in enumerate(
            start for start in results.starts(growth) if start not in ("copy", "noise")
        ):
            if (group := results.of((*cell, growth), start)) is None:
                continue
            steps = [step for step, _ in group.scores(group.entries[0])]
            values = np.array([[abs(score) for _, score in group.scores(entry)] for entry in group.entries])
            mean, spread = values.mean(0), values.std(0)
            axis.plot(steps, mean, label=STARTS[start], color=f"C{k}", linewidth=1)
            axis.fill_between(steps, mean - spread, mean + spread, color=f"C{k}", alpha=0.15, linewidth=0)
        last = results.random((*cell, growth))
        assert last is not None
        end, teacher = abs(last.end), values[:, 0].mean()
        margin = 1.5 * abs(end - teacher) + (0.1 if group and group.is_text else 0.02)
        axis.set_ylim(
            *(
                (end - margin, end + 2 * margin)
                if cell[0] == "transformer"
                else (end - 2 * margin, min(1.0, end + margin))
            )
        )
        axis.set(
            title=f"{TASKS[cell[0]]}, {growth}",
            xlabel="step",
            ylabel="loss" if cell[0] == "transformer" else "accuracy",
        )
    axes[0][0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
